"""The three stages of one run, from wherever the run stands to its tuned UNet."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from handdata.errors import Unfinished
from handtrain import checkpoint, tensorfile
from handtrain.diffusion import Diffusion, parts
from handtrain.embedding import optimise_embeddings
from handtrain.fusion import TokenFusion, mix
from handtrain.gesture import GestureFeature
from handtrain.noise import image_draws, reference_draws
from handtrain.prepare import Material
from handtrain.presets import RunOptions, TrainOptions
from handtrain.runfolder import RunFolder, write_text
from handtrain.unet import adam, batch_of, steps_of, tuning_step, warmed_up
from handtrain.watching import Observer

Embed = Callable[[list[int]], torch.Tensor]  # rows of the material -> embeddings (b, tokens, width) on the device


def write_stage1(run: RunFolder, feature: GestureFeature) -> None:
    """Write the gesture feature down."""
    write_text(run.path / "stage1.json", json.dumps(asdict(feature), indent=1) + "\n")
    if run.lines == 0:
        run.log(stage=1, step=0, images=feature.images, without_hand=feature.without_hand)


def logged_lines(run: RunFolder, resume: checkpoint.Checkpoint | None) -> int:
    """Return how many lines of the log belong to finished work: Stage II's shards and the checkpoint to start from."""
    shards = [tensorfile.read(path) for path in (run.path / "stage2").glob("*.safetensors")]
    lines: list[int] = [found[1]["log_lines"] for found in shards if found]
    return max([*lines, resume.state["log_lines"] if resume else 0])


@dataclass
class Training:
    """One run at work: what Stages II and III share. All tensors but the model's are on the CPU."""

    run: RunFolder
    options: TrainOptions
    running: RunOptions
    model: Diffusion
    material: Material
    feature: torch.Tensor  # (63,)
    observer: Observer
    resume: checkpoint.Checkpoint | None
    stopping: Callable[[], bool]  # whether a signal has asked the run to stop at the next step

    def __post_init__(self) -> None:
        self.saved = time.monotonic()
        self.checkpoints = self.run.path / "checkpoints"
        self.timesteps = self.model.schedule.config.num_train_timesteps
        self.shape = tuple(self.material.latents.mean.shape[1:])  # (c, h, w)

    def train_fusion(self, layer: TokenFusion) -> None:
        """Train the token layer through the frozen UNet, then mix what it makes of the texts into the material."""
        o = self.options
        path = self.run.path / "stage2" / "fusion.safetensors"
        found = tensorfile.read(path)
        if found:
            layer.load_state_dict(found[0])
        else:
            feature = self.feature.to(self.model.device)

            def embed(rows: list[int]) -> torch.Tensor:
                text = self.material.text[rows].to(self.model.device)
                return mix(text, layer(text, feature), o.lam)

            self._tune(2, "fusion", layer, embed, o.fusion_epochs, o.fusion_batch, o.fusion_lr)
            weights = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
            tensorfile.write(path, weights, {"log_lines": self.run.lines})
        layer.requires_grad_(False)
        self.material = self._fused(self.material, layer)
        if self.observer.material:
            self.observer.material = self._fused(self.observer.material, layer)

    def stage2(self) -> torch.Tensor:
        """Optimise every image's embedding; return them (n, tokens, width). A shard on disk is one batch of images."""
        material = self.material
        embeddings = torch.empty_like(material.mixed)
        for number, part in enumerate(
            tqdm(parts(len(material), self.options.embedding_batch), desc="Stage II", unit="batch", disable=None)
        ):
            path = self.run.path / "stage2" / f"{number:05d}.safetensors"
            found = tensorfile.read(path)
            if found:
                embeddings[part] = found[0]["embeddings"]
                continue
            embeddings[part] = self._optimise(part, number * self.options.embedding_steps)
            about = {"image_ids": material.image_ids[part], "log_lines": self.run.lines}
            tensorfile.write(path, {"embeddings": embeddings[part].clone()}, about)
            self._stop_if_asked(f"batch {number} of Stage II")
        return embeddings

    def stage3(self, embeddings: torch.Tensor) -> None:
        """Fine-tune the UNet on the frozen embeddings (n, tokens, width)."""
        o, unet = self.options, self.model.unet
        unet.requires_grad_(True)

        def embed(rows: list[int]) -> torch.Tensor:
            return embeddings[rows].to(self.model.device)

        self._tune(3, "unet", unet, embed, o.unet_epochs, o.unet_batch, o.unet_lr, o.unet_warmup)

    def image_after_image(self) -> None:
        """Run Stage II, then Stage III on every image in turn: the released code's order (docs/decisions.md)."""
        count, first = len(self.material), 0
        if self.resume:
            checkpoint.restore(self.resume, self.model.unet)
            first = self.resume.state["images"]
        else:
            self.observer.look(self.model, 0, count)
        for index in tqdm(range(first, count), desc="images", unit="image", initial=first, total=count, disable=None):
            self._reference_image(index)
            done = index + 1
            self.observer.look(self.model, done, count)
            tensors = checkpoint.training_state(self.model.unet)
            self._save_when_due(f"images-{done:08d}", tensors, {"images": done}, done == count)

    def _reference_image(self, index: int) -> None:
        o, part, unet = self.options, slice(index, index + 1), self.model.unet
        name, latents = self.material.image_ids[part], self.material.latents[part]
        steps = o.embedding_steps + o.unet_epochs
        draws = reference_draws(o.seed, self.shape, self.timesteps, steps, o.noise_device)
        unet.requires_grad_(False)
        embedding = optimise_embeddings(
            self.model,
            latents,
            self.material.mixed[part],
            draws[: o.embedding_steps],
            o.embedding_lr,
            lambda step, losses: self._record(2, step, name, losses, o.embedding_lr),
        ).to(self.model.device)
        unet.requires_grad_(True)
        optimiser = adam(unet.parameters(), o.unet_lr)
        for step, draw in enumerate(draws[o.embedding_steps :]):
            losses = tuning_step(self.model, optimiser, latents, draw, lambda _: embedding)
            self._record(3, step, name, losses, o.unet_lr)

    def _optimise(self, part: slice, first_step: int) -> torch.Tensor:
        o, ids = self.options, self.material.image_ids[part]
        draws = (
            image_draws(o.seed, "stage2", [(name, step) for name in ids], self.shape, self.timesteps)
            for step in range(o.embedding_steps)
        )
        return optimise_embeddings(
            self.model,
            self.material.latents[part],
            self.material.mixed[part],
            draws,
            o.embedding_lr,
            lambda step, losses: self._record(2, first_step + step, ids, losses, o.embedding_lr),
            self.running.micro_batch,
        )

    def _tune(
        self, stage: int, part: str, module: torch.nn.Module, embed: Embed,
        epochs: int, batch: int, lr: float, warmup: int = 0,
    ) -> None:  # fmt: skip
        o, material, latents = self.options, self.material, self.material.latents
        count, total = len(material), steps_of(len(material), batch, epochs)
        optimiser = adam(module.parameters(), lr)
        first = 0
        if self.resume and self.resume.state.get("part") == part:
            checkpoint.restore(self.resume, module, optimiser)
            first = self.resume.state["step"]
        elif part == "unet":
            self.observer.look(self.model, 0, total)
        bar = tqdm(
            range(first, total), desc=f"Stage {'I' * stage}", unit="step", initial=first, total=total, disable=None
        )
        for step in bar:
            chosen = batch_of(step, count, batch, epochs, o.seed, part)
            rows, ids = [row for row, _ in chosen], [material.image_ids[row] for row, _ in chosen]
            keys = [(material.image_ids[row], epoch) for row, epoch in chosen]
            draw = image_draws(o.seed, part, keys, self.shape, self.timesteps)
            rate = warmed_up(lr, step, warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = tuning_step(
                self.model, optimiser, latents[rows], draw,
                partial(_embed_part, embed, rows), self.running.micro_batch,
            )  # fmt: skip
            self._record(stage, step, ids, losses, rate, part=part)
            bar.set_postfix(loss=f"{float(losses.mean()):.4f}", refresh=False)
            if part == "unet":
                self.observer.look(self.model, step + 1, total)
            tensors = checkpoint.training_state(module, optimiser)
            state = {"part": part, "step": step + 1}
            self._save_when_due(f"stage{stage}-{step + 1:08d}", tensors, state, step + 1 == total)

    def _record(self, stage: int, step: int, ids: list[str], losses: torch.Tensor, lr: float, **more: Any) -> None:
        values = losses.double().cpu()
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise Unfinished(
                f"stage {stage}, step {step}: the loss of image {ids[bad[0]]} is {values[bad[0]]}; lower the learning "
                "rate of this stage in a new run, or take the image out of the dataset"
            )
        peak = {"peak_mib": _peak_mib(self.model.device)} if step % 100 == 0 else {}
        self.run.log_step(stage, step, ids, float(values.mean()), lr, **more, **peak)

    def _save_when_due(
        self, name: str, tensors: Iterator[tuple[str, torch.Tensor]], state: dict[str, Any], last: bool
    ) -> None:
        if last or self.stopping() or time.monotonic() - self.saved >= 60 * self.running.checkpoint_minutes:
            self.run.sync()
            checkpoint.save(self.checkpoints, name, tensors, {**state, "log_lines": self.run.lines})
            self.saved = time.monotonic()
        self._stop_if_asked(name)

    def _stop_if_asked(self, place: str) -> None:
        if self.stopping():
            raise Unfinished(f"stopped by a signal after {place}; the same command continues the run")

    def _fused(self, material: Material, layer: TokenFusion) -> Material:
        device, feature = self.model.device, self.feature.to(self.model.device)
        with torch.no_grad():
            fused = torch.cat([layer(one[None].to(device), feature).cpu() for one in material.text])
        return replace(material, mixed=mix(material.text, fused, self.options.lam))


def _embed_part(embed: Embed, rows: list[int], part: slice) -> torch.Tensor:
    return embed(rows[part])


def _peak_mib(device: torch.device) -> float:
    import resource

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)
