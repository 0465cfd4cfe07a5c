"""Drive a training run through the three stages; killed at any moment, the same call continues to the same end."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from handdata.errors import Unfinished, UserError, require_writable_folder
from handtrain import checkpoint, tensorfile
from handtrain.data import Photographs, load, readme, splits_of
from handtrain.diffusion import Diffusion, parts
from handtrain.embedding import optimise_embeddings
from handtrain.encode import TensorCache, cache_folder
from handtrain.export import export
from handtrain.fusion import TokenFusion, mix
from handtrain.gesture import NUMBERS, GestureFeature, gesture_feature
from handtrain.models import Base, choose_device, open_base
from handtrain.noise import image_draws, reference_draws
from handtrain.places import HubName, Place
from handtrain.plan import plan, require_disk
from handtrain.prepare import Material, materials
from handtrain.presets import RunOptions, TrainOptions, check
from handtrain.runfolder import RunFolder, open_run, write_text
from handtrain.unet import adam, batch_of, steps_of, tuning_step, warmed_up
from handtrain.watching import sample_grid, validation_loss


@dataclass(frozen=True)
class Job:
    """What the command line of `handtrain train` says."""

    dataset: Place
    gesture: str
    base: Place
    out: Path
    options: TrainOptions
    running: RunOptions
    preset: str = "paper"  # for the record
    device: str = "auto"
    cache: Path | None = None  # of encoded images and texts
    dry_run: bool = False


def train(job: Job) -> int:
    """Make or continue a run and return the exit code.

    Raises `UserError` for a mistake, `Unfinished` if the run has to stop; the same call continues it.
    """
    check(job.options)
    _require_one_process(job.options)
    device = choose_device(job.device)
    print(f"handtrain: training on {device}, {torch.get_num_threads()} threads", file=sys.stderr)
    base = open_base(job.base)
    photographs = load(job.dataset, job.gesture, limit=job.options.limit)
    planned = plan(job.gesture, photographs, base, job.options)
    if job.dry_run:
        print(planned)
        return 0
    require_writable_folder(job.out, "--out")
    require_disk(planned, job.out)
    with _memory_explained(), open_run(job.out, _config(job, base, photographs), _session(job, device)) as run:
        if run.finished:
            print(f"handtrain: this run is finished, its model is {job.out / 'model'}", file=sys.stderr)
        else:
            Training(job, run, base, photographs, device).run_to_the_end()
    print(job.out / "model")
    return 0


class Training:
    """One run at work: what its stages share."""

    def __init__(self, job: Job, run: RunFolder, base: Base, photographs: Photographs, device: torch.device) -> None:
        self.job, self.run, self.base, self.photographs, self.device = job, run, base, photographs, device
        self.options, self.running = job.options, job.running
        self.checkpoints = job.out / "checkpoints"
        self.saved = time.monotonic()
        self.stop = False

    def run_to_the_end(self) -> None:
        """Bring the run from wherever it is to its model folder."""
        checkpoint.remove_partial(self.checkpoints)
        self.resume, damaged = checkpoint.newest(self.checkpoints)
        for name in damaged:
            print(f"handtrain: the checkpoint {name} is damaged; an older state is taken", file=sys.stderr)
        with self._stoppable():
            self.run.start_log(self._log_lines(), self.running.tensorboard)
            feature = self.stage1()
            splits = [self.photographs, *self._validation()]
            self.feature = torch.tensor(feature.values, dtype=torch.float32)  # (63,)
            cache = TensorCache(self.job.cache or cache_folder())
            (self.material, *validation), self.unconditional = materials(
                splits, self.base, self.options, self.feature, self.device, cache, progress=True
            )
            self.validation = validation[0] if validation else None
            unet = self.base.unet().to(self.device).requires_grad_(False).train()
            if self.running.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
            self.model = Diffusion(unet, self.base.training_schedule(), self.base.scaling(), self.device)
            layer = self.train_fusion() if self.options.fusion == "token" else None
            if self.options.order == "images":
                self.image_after_image()
            else:
                self.stage3(self.stage2())
        export(self.job.out / "model", self.base, unet, self._about(feature), layer, self.running.safety_checker)
        self.run.update(finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def stage1(self) -> GestureFeature:
        """Take the gesture feature of the training images and write it down."""
        feature = gesture_feature(self.photographs.rows, self.options.feature)
        write_text(self.job.out / "stage1.json", json.dumps(asdict(feature), indent=1) + "\n")
        if self.run.lines == 0:
            self.run.log(stage=1, step=0, images=feature.images, without_hand=feature.without_hand)
        return feature

    def train_fusion(self) -> TokenFusion:
        """Train the token layer through the frozen UNet, then mix what it makes of the texts into the material."""
        layer = TokenFusion(self.base.width, NUMBERS).to(self.device)
        feature = self.feature.to(self.device)
        path = self.job.out / "stage2" / "fusion.safetensors"
        found = tensorfile.read(path)
        if found:
            layer.load_state_dict(found[0])
        else:
            o = self.options

            def embed(rows: list[int]) -> torch.Tensor:
                text = self.material.text[rows].to(self.device)
                return mix(text, layer(text, feature), o.lam)

            self._tune(2, layer, embed, o.fusion_epochs, o.fusion_batch, o.fusion_lr, part="fusion")
            tensorfile.write(path, _on_cpu(layer), {"log_lines": self.run.lines})
        layer.requires_grad_(False)
        self.material = self._fused(self.material, layer)
        self.validation = self._fused(self.validation, layer) if self.validation else None
        return layer

    def stage2(self) -> torch.Tensor:
        """Optimise every image's embedding; return them (n, tokens, width). A shard is one batch of images."""
        o, material = self.options, self.material
        embeddings = torch.empty_like(material.mixed)
        shards = parts(len(material), o.embedding_batch)
        for number, part in enumerate(tqdm(shards, desc="Stage II", unit="batch", disable=None)):
            path = self.job.out / "stage2" / f"{number:05d}.safetensors"
            found = tensorfile.read(path)
            if found is None:
                made = self._optimise(material, part, number * o.embedding_steps)
                ids = material.image_ids[part]
                tensorfile.write(path, {"embeddings": made}, {"image_ids": ids, "log_lines": self.run.lines})
                found = {"embeddings": made}, None
            embeddings[part] = found[0]["embeddings"]
            self._stop_if_asked(f"Stage II, batch {number + 1}")
        return embeddings

    def stage3(self, embeddings: torch.Tensor) -> None:
        """Fine-tune the UNet on the frozen embeddings."""
        o, unet = self.options, self.model.unet
        unet.requires_grad_(True)

        def embed(rows: list[int]) -> torch.Tensor:
            return embeddings[rows].to(self.device)

        self._tune(3, unet, embed, o.unet_epochs, o.unet_batch, o.unet_lr, o.unet_warmup, "unet", self._look)

    def image_after_image(self) -> None:
        """Run Stage II, then Stage III on every image in turn: the released code's order (docs/decisions.md)."""
        o, material, unet = self.options, self.material, self.model.unet
        first = 0
        if self.resume:
            checkpoint.restore(self.resume, unet)
            first = self.resume.state["images"]
        else:
            self._look(0, len(material))
        for index in tqdm(range(first, len(material)), desc="images", unit="image", initial=first, disable=None):
            part, name = slice(index, index + 1), material.image_ids[index]
            latents, timesteps = material.latents[part], self.model.schedule.config.num_train_timesteps
            shape, steps = tuple(latents.mean.shape[1:]), o.embedding_steps + o.unet_epochs
            draws = reference_draws(o.seed, shape, timesteps, steps, o.noise_device)
            unet.requires_grad_(False)
            watch = self._watcher(2, [name], o.embedding_lr)
            embedding = optimise_embeddings(
                self.model, latents, material.mixed[part], draws[: o.embedding_steps], o.embedding_lr, watch
            ).to(self.device)
            unet.requires_grad_(True)
            optimiser = adam(unet.parameters(), o.unet_lr)
            for step, draw in enumerate(draws[o.embedding_steps :]):
                seen = self._watcher(3, [name], o.unet_lr, step)
                tuning_step(self.model, optimiser, latents, draw, lambda _: embedding, lambda x: seen(0, x))  # noqa: B023
            del optimiser
            self._look(index + 1, len(material))
            state = checkpoint.training_state(unet)
            self._save_when_due(f"images-{index + 1:08d}", state, {"images": index + 1}, index + 1 == len(material))

    def _optimise(self, material: Material, part: slice, first_step: int) -> torch.Tensor:
        o, ids, latents = self.options, material.image_ids[part], material.latents[part]
        shape, timesteps = tuple(latents.mean.shape[1:]), self.model.schedule.config.num_train_timesteps
        draws = (
            image_draws(o.seed, "stage2", [(name, step) for name in ids], shape, timesteps)
            for step in range(o.embedding_steps)
        )
        watch = self._watcher(2, ids, o.embedding_lr, first_step)
        micro_batch = self.running.micro_batch
        return optimise_embeddings(self.model, latents, material.mixed[part], draws, o.embedding_lr, watch, micro_batch)

    def _tune(
        self,
        stage: int,
        module: torch.nn.Module,
        embed: Callable[[list[int]], torch.Tensor],
        epochs: int,
        batch: int,
        lr: float,
        warmup: int = 0,
        part: str = "",
        look: Callable[[int, int], None] | None = None,
    ) -> None:
        o, material, latents = self.options, self.material, self.material.latents
        shape, timesteps = tuple(latents.mean.shape[1:]), self.model.schedule.config.num_train_timesteps
        optimiser = adam(module.parameters(), lr)
        count, total = len(material), steps_of(len(material), batch, epochs)
        first = 0
        if self.resume and self.resume.state.get("part") == part:
            checkpoint.restore(self.resume, module, optimiser)
            first = self.resume.state["step"]
        elif look:
            look(0, total)
        for step in tqdm(range(first, total), desc=f"Stage {'I' * stage}", unit="step", initial=first, disable=None):
            chosen = batch_of(step, count, batch, epochs, o.seed, part)
            rows = [row for row, _ in chosen]
            ids = [material.image_ids[row] for row in rows]
            draw = image_draws(o.seed, part, [(material.image_ids[row], epoch) for row, epoch in chosen], shape, timesteps)
            for group in optimiser.param_groups:
                group["lr"] = warmed_up(lr, step, warmup)
            watch = self._watcher(stage, ids, warmed_up(lr, step, warmup), step)
            tuning_step(
                self.model, optimiser, latents[rows], draw,
                lambda piece: embed(rows[piece]), lambda losses: watch(0, losses), self.running.micro_batch,  # noqa: B023
            )  # fmt: skip
            if look:
                look(step + 1, total)
            state = checkpoint.training_state(module, optimiser)
            name = f"stage{stage}-{step + 1:08d}"
            self._save_when_due(name, state, {"part": part, "step": step + 1}, step + 1 == total)

    def _save_when_due(
        self, name: str, tensors: Iterator[tuple[str, torch.Tensor]], state: dict[str, Any], last: bool
    ) -> None:
        if last or self.stop or time.monotonic() - self.saved >= 60 * self.running.checkpoint_minutes:
            self.run.sync()
            checkpoint.save(self.checkpoints, name, tensors, {**state, "log_lines": self.run.lines})
            self.saved = time.monotonic()
        self._stop_if_asked(name)

    def _watcher(self, stage: int, ids: list[str], lr: float, first: int = 0) -> Callable[[int, torch.Tensor], None]:
        def watch(step: int, losses: torch.Tensor) -> None:
            values = losses.double().cpu()
            bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
            if bad:
                raise Unfinished(
                    f"stage {stage}, step {first + step}: the loss of image {ids[bad[0]]} is {values[bad[0]]}; "
                    "lower the learning rate of this stage in a new run, or take the image out of the dataset"
                )
            more = {"peak_mib": _peak_mib(self.device)} if (first + step) % 100 == 0 else {}
            self.run.log_step(stage, first + step, ids, float(values.mean()), lr, **more)

        return watch

    def _look(self, step: int, total: int) -> None:
        material, running = self.validation, self.running
        if material is None:
            return
        if running.validate_every and (step % running.validate_every == 0 or step == total):
            loss = validation_loss(
                self.model, material.latents, material.mixed, material.image_ids, self.options.seed
            )
            self.run.log(stage=3, step=step, validation_loss=loss)
        if running.sample_every and (step % running.sample_every == 0 or step == total):
            self._sample(step, material)

    def _sample(self, step: int, material: Material) -> None:
        rows = slice(0, self.running.sample_prompts)
        picture = sample_grid(
            self.model.unet,
            self.base.vae().to(self.device),
            self.base.sampling_schedule(),
            material.mixed[rows],
            self.unconditional,
            material.texts[rows],
            range(self.running.sample_seeds),
            self.running.sample_steps,
            self.base.check_resolution(self.options.resolution),
        )
        path = self.job.out / "samples" / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path.with_suffix(".partial"), format="PNG")
        path.with_suffix(".partial").replace(path)

    def _validation(self) -> list[Photographs]:
        running = self.running
        if not (running.validate_every or running.sample_every):
            return []
        if "validation" not in splits_of(self.photographs.place, self.job.gesture):
            print("handtrain: the dataset has no validation split: no validation loss, no samples", file=sys.stderr)
            return []
        count = max(running.validation_images, running.sample_prompts)
        return [load(self.photographs.place, self.job.gesture, "validation", count)]

    def _fused(self, material: Material, layer: TokenFusion) -> Material:
        feature = self.feature.to(self.device)
        with torch.no_grad():
            fused = torch.cat([layer(one[None].to(self.device), feature).cpu() for one in material.text])
        mixed = mix(material.text, fused, self.options.lam)
        return Material(material.image_ids, material.texts, material.latents, material.text, mixed)

    def _log_lines(self) -> int:
        shards = [tensorfile.read(path) for path in (self.job.out / "stage2").glob("*.safetensors")]
        lines = [found[1]["log_lines"] for found in shards if found]
        return max([*lines, self.resume.state["log_lines"] if self.resume else 0])

    def _about(self, feature: GestureFeature) -> dict[str, Any]:
        rows = self.photographs.rows
        return {
            "gesture": self.job.gesture,
            "gesture_phrase": rows[0].phrase,
            "feature": {"kind": feature.kind, "values": feature.values},
            "lam": self.options.lam,
            "crop": self.options.crop,
            "resolution": self.base.check_resolution(self.options.resolution),
            "seed": self.options.seed,
            "training": {
                **self.run.record["config"],
                "preset": self.job.preset,
                "images": feature.images + feature.without_hand,
                "without_hand": feature.without_hand,
                "rewritten_by_llm": sum(row.rewrite == "llm" for row in rows),
                "llama3": "llama 3" in readme(self.photographs.place).lower().replace("-", " "),
                "versions": _versions(),
            },
        }

    def _stop_if_asked(self, place: str) -> None:
        if self.stop:
            raise Unfinished(f"stopped by a signal after {place}; the same command continues the run")

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def ask(signum: int, frame: Any) -> None:
            self.stop = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _require_one_process(options: TrainOptions) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if options.order == "images":
            raise UserError("--order images works on one image after the other: start it as a single process")
        raise UserError("handtrain train runs as a single process in this version: start it without a launcher")


def _config(job: Job, base: Base, photographs: Photographs) -> dict[str, Any]:
    place = photographs.place
    return {
        "gesture": job.gesture,
        "options": asdict(job.options),
        "dataset": {
            "place": f"hf:{place.repo}" if isinstance(place, HubName) else place.resolve().name,
            "revision": place.revision if isinstance(place, HubName) else None,
            "rows": len(photographs.rows),
            "fingerprint": photographs.fingerprint(),
        },
        "base": {
            "place": f"hf:{base.commit.repo}" if base.commit else base.folder.resolve().name,
            "revision": base.commit.revision if base.commit else None,
            "fingerprint": base.fingerprint(),
        },
    }


def _session(job: Job, device: torch.device) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {"preset": job.preset, "running": asdict(job.running), "device": str(device), "threads": threads, **_versions()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("hand1000", "torch", "diffusers", "transformers", "datasets")}


def _peak_mib(device: torch.device) -> float:
    import resource

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _on_cpu(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


@contextmanager
def _memory_explained() -> Iterator[None]:
    remedy = "try --micro-batch 1 and --gradient-checkpointing, which change nothing but rounding; the run continues"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise Unfinished(f"out of memory: {remedy}") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise Unfinished(f"out of memory: {remedy}") from None
