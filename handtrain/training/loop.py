"""The three stages of one run, from wherever the run stands to its tuned UNet."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from handdata.errors import Unfinished
from handtrain import tensor_cache
from handtrain.method.batches import ahead
from handtrain.method.diffusion import Diffusion, Latents, parts
from handtrain.method.embedding import Watch, optimise_embeddings
from handtrain.method.fusion import TokenFusion, mix
from handtrain.method.gesture import GestureFeature
from handtrain.method.lora import require_grad
from handtrain.method.micro_batch import MicroBatch, peak_mib
from handtrain.method.noise import Draw, image_draws, reference_draws
from handtrain.method.unet import adam, batch_of, steps_of, tuning_step, warmed_up
from handtrain.presets import RunOptions, TrainOptions
from handtrain.run import checkpoint
from handtrain.run.folder import RunFolder, write_text
from handtrain.run.processes import Processes
from handtrain.training.training_set import Material
from handtrain.training.validation import Observer

Embed = Callable[[list[int]], torch.Tensor]  # rows of the material -> embeddings (b, tokens, width) on the device


def write_stage1(run: RunFolder, feature: GestureFeature) -> None:
    """Write the gesture feature down."""
    if not run.silent:
        write_text(run.path / "stage1.json", json.dumps(asdict(feature), indent=1) + "\n")
    if run.lines == 0:
        run.log(stage=1, step=0, images=feature.images, without_hand=feature.without_hand)


def logged_lines(run: RunFolder, resume: checkpoint.Checkpoint | None) -> int:
    """Return how many lines of the log belong to finished work: Stage II's shards and the checkpoint to start from."""
    shards = [tensor_cache.read(path) for path in (run.path / "stage2").glob("*.safetensors")]
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
    processes: Processes = field(default_factory=Processes)
    ideal: dict[int, float] = field(default_factory=dict)  # by stage: seconds an image takes at the hardware's peak

    def __post_init__(self) -> None:
        self.pieces = MicroBatch(self.running.micro_batch)
        self.saved = time.monotonic()
        self.checkpoints = self.run.path / "checkpoints"
        self.timesteps = self.model.schedule.config.num_train_timesteps
        self.shape = tuple(self.material.latents.mean.shape[1:])  # (c, h, w)

    def train_fusion(self, layer: TokenFusion) -> None:
        """Train the token layer through the frozen UNet, then mix what it makes of the texts into the material."""
        o = self.options
        path = self.run.path / "stage2" / "fusion.safetensors"
        found = self.processes.told(lambda: tensor_cache.read(path))
        if found:
            layer.load_state_dict(found[0])
        else:
            feature = self.feature.to(self.model.device)

            def embed(rows: list[int]) -> torch.Tensor:
                text = self.material.text[rows].to(self.model.device)
                return mix(text, layer(text, feature), o.lam)

            self._tune(2, "fusion", layer, embed, o.fusion_epochs, o.fusion_batch, o.fusion_lr)
            if self.processes.first:
                weights = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
                tensor_cache.write(path, weights, {"log_lines": self.run.lines})
        layer.requires_grad_(False)
        self.material = self._fused(self.material, layer)
        if self.observer.material:
            self.observer.material = self._fused(self.observer.material, layer)

    def stage2(self) -> torch.Tensor:
        """Optimise every image's embedding; return them (n, tokens, width). A shard on disk is one batch of images.

        Several processes take one batch each; the first writes them all.
        """
        batches = parts(len(self.material), self.options.embedding_batch)
        finished = self.processes.told(lambda: self._finished(len(batches)))
        embeddings = torch.empty_like(self.material.mixed)
        for number, found in finished.items():
            embeddings[batches[number]] = found
        missing = [number for number in range(len(batches)) if number not in finished]
        bar = tqdm(
            total=len(batches), initial=len(finished), desc="Stage II", unit="batch",
            disable=None if self.processes.first else True,
        )  # fmt: skip
        for start in range(0, len(missing), self.processes.count):
            turn = missing[start : start + self.processes.count]
            for number, made in self._optimise_each(turn, batches).items():
                embeddings[batches[number]] = made
                bar.update()
            self._stop_if(self.processes.any(self.stopping()), f"batch {turn[-1]} of Stage II")
        bar.close()
        return embeddings

    def stage3(self, embeddings: torch.Tensor) -> None:
        """Fine-tune the UNet on the frozen embeddings (n, tokens, width)."""
        o, unet = self.options, self.model.unet
        require_grad(unet)

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

    def _finished(self, batches: int) -> dict[int, torch.Tensor]:
        """Return the embeddings of the batches of Stage II that are on disk."""
        found = {number: tensor_cache.read(self._shard(number)) for number in range(batches)}
        return {number: shard[0]["embeddings"] for number, shard in found.items() if shard}

    def _shard(self, number: int) -> Path:
        return self.run.path / "stage2" / f"{number:05d}.safetensors"

    def _optimise_each(self, turn: list[int], batches: list[slice]) -> dict[int, torch.Tensor]:
        """Optimise one batch in each process; log and write them all in the first. Return the embeddings by batch."""
        o, ids = self.options, self.material.image_ids
        alone, start = self.processes.count == 1, time.monotonic()
        seen: list[torch.Tensor] = []

        def record(number: int, step: int, losses: torch.Tensor, speed: float | None = None) -> None:
            self._record(
                2, number * o.embedding_steps + step, ids[batches[number]], losses, o.embedding_lr, speed=speed
            )

        def watch(step: int, losses: torch.Tensor) -> None:
            if alone:
                record(turn[0], step, losses)
            else:
                seen.append(losses.cpu())

        mine = turn[self.processes.rank] if self.processes.rank < len(turn) else None
        made = self._optimise(batches[mine], watch) if mine is not None else None
        everything = self.processes.everyone((seen, made))[: len(turn)]
        speed = sum(len(losses) for losses_of, _ in everything for losses in losses_of) / (time.monotonic() - start)
        embeddings = {}
        for number, (losses_of, optimised) in zip(turn, everything, strict=True):
            for step, losses in enumerate(losses_of):
                record(number, step, losses, speed)
            assert optimised is not None, turn
            embeddings[number] = optimised
            if self.processes.first:
                about = {"image_ids": ids[batches[number]], "log_lines": self.run.lines}
                tensor_cache.write(self._shard(number), {"embeddings": optimised}, about)
        return embeddings

    def _optimise(self, part: slice, watch: Watch) -> torch.Tensor:
        o, ids = self.options, self.material.image_ids[part]

        def draw(step: int) -> Draw:
            keys = [(name, step) for name in ids]
            return image_draws(o.seed, "stage2", keys, self.shape, self.timesteps).to(self.model.device)

        return optimise_embeddings(
            self.model,
            self.material.latents[part],
            self.material.mixed[part],
            (drawn for _, drawn in ahead(draw, range(o.embedding_steps), self.model.device)),
            o.embedding_lr,
            watch,
            self.pieces,
        )

    def _tune(
        self, stage: int, part: str, module: torch.nn.Module, embed: Embed,
        epochs: int, batch: int, lr: float, warmup: int = 0,
    ) -> None:  # fmt: skip
        o, material, device = self.options, self.material, self.model.device
        count, total = len(material), steps_of(len(material), batch, epochs)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimiser = adam(trained, lr, o.optimizer if part == "unet" else "adam")
        first = 0
        if self.resume and self.resume.state.get("part") == part:
            if self.processes.first:
                checkpoint.restore(self.resume, module, optimiser)
            self.processes.spread(module, optimiser)
            first = self.resume.state["step"]
            if part == "unet" and first and self._ended(first, total):
                return
        elif part == "unet":
            self.observer.look(self.model, 0, total)

        def load(step: int) -> tuple[list[str], list[int], Latents, Draw]:
            """Return the images of a step, and of those of this process the rows, latents and draws."""
            chosen = batch_of(step, count, batch, epochs, o.seed, part)
            mine = chosen[self.processes.share(len(chosen))]
            rows, keys = [row for row, _ in mine], [(material.image_ids[row], epoch) for row, epoch in mine]
            draw = image_draws(o.seed, part, keys, self.shape, self.timesteps)
            ids = [material.image_ids[row] for row, _ in chosen]
            return ids, rows, material.latents[rows].to(device), draw.to(device)

        bar = tqdm(
            ahead(load, range(first, total), device), desc=f"Stage {'I' * stage}", unit="step", initial=first,
            total=total, disable=None if self.processes.first else True,
        )  # fmt: skip
        for step, (ids, rows, latents, draw) in bar:
            rate = warmed_up(lr, step, warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = tuning_step(
                self.model, optimiser, latents, draw, partial(_embed_part, embed, rows), self.pieces,
                len(ids), self.processes.add_gradients,
            )  # fmt: skip
            losses = self.processes.whole(losses, len(ids))
            self._record(stage, step, ids, losses, rate, part=part)
            bar.set_postfix(loss=f"{float(losses.mean()):.4f}", refresh=False)
            if part == "unet":
                self.observer.look(self.model, step + 1, total)
            ended = part == "unet" and self._ended(step + 1, total)
            tensors = checkpoint.training_state(module, optimiser)
            state = {"part": part, "step": step + 1}
            self._save_when_due(f"stage{stage}-{step + 1:08d}", tensors, state, ended or step + 1 == total)
            if ended:
                break

    def _ended(self, step: int, total: int) -> bool:
        """Return whether the evaluations say that Stage III is to stop after this step."""
        every = self.options.evaluate_every
        if not self.options.patience or (step % every and step != total):
            return False
        judge = self.observer.judge
        return self.processes.told(lambda: judge is not None and judge.ended)

    def _record(self, stage: int, step: int, ids: list[str], losses: torch.Tensor, lr: float, **more: Any) -> None:
        values = losses.double().cpu()
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise Unfinished(
                f"stage {stage}, step {step}: the loss of image {ids[bad[0]]} is {values[bad[0]]}; lower the learning "
                "rate of this stage in a new run, or take the image out of the dataset"
            )
        if step % 100 == 0:
            more |= {"peak_mib": peak_mib(self.model.device), "ideal": self.ideal.get(stage) if step else None}
        self.run.log_step(stage, step, ids, float(values.mean()), lr, **more)

    def _save_when_due(
        self, name: str, tensors: Iterator[tuple[str, torch.Tensor]], state: dict[str, Any], last: bool
    ) -> None:
        stopping = self.processes.any(self.stopping())
        due = last or stopping or time.monotonic() - self.saved >= 60 * self.running.checkpoint_minutes
        if due and self.processes.first:
            self.run.sync()
            checkpoint.save(self.checkpoints, name, tensors, {**state, "log_lines": self.run.lines})
            self.saved = time.monotonic()
        self._stop_if(stopping, name)

    def _stop_if(self, stopping: bool, place: str) -> None:
        if stopping:
            raise Unfinished(f"stopped by a signal after {place}; the same command continues the run")

    def _fused(self, material: Material, layer: TokenFusion) -> Material:
        device, feature = self.model.device, self.feature.to(self.model.device)
        with torch.no_grad():
            fused = torch.cat([layer(one[None].to(device), feature).cpu() for one in material.text])
        return replace(material, mixed=mix(material.text, fused, self.options.lam))


def _embed_part(embed: Embed, rows: list[int], part: slice) -> torch.Tensor:
    return embed(rows[part])
