"""Generate images from a trained model or a plain base, alike: a seed per image, PNG with the settings, resumable."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from handdata.errors import UserError
from handdata.files import require_writable_folder, sha256_of, write_text
from handdata.huggingface import Place
from handdata.machine import choose_device
from handtrain.data.dataset import load
from handtrain.evaluation.image_sets import GENERATION_FILE, GENERATION_SETTINGS, is_black, split_of
from handtrain.method.noise import seed_of
from handtrain.model.base import Base, open_base
from handtrain.model.pipeline import ABOUT_FILE, Hand1000Pipeline
from handtrain.options import GenerateOptions

REFERENCE_STEPS = 46  # the released code asks its sampler for 45
SETTINGS = "hand1000"  # name of the text chunk in a PNG that holds the record of the image
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Job:
    """What the command line of `handtrain generate` says."""

    model: Place
    out: Path
    prompts: str | None = None  # a file with one prompt per line, or DATASET:SPLIT
    prompt: str | None = None
    gesture: str | None = None
    seeds: tuple[int, ...] = (0,)
    options: GenerateOptions = field(default_factory=GenerateOptions)
    limit: int = 0
    batch: int = 4
    device: str = "auto"
    dry_run: bool = False


@dataclass(frozen=True)
class Picture:
    """One image to make."""

    file: str
    prompt: str
    seed: int  # as the user counts them
    noise_seed: int  # of torch's CPU generator

    def record(self) -> dict[str, Any]:
        """Return what PNG and generation.jsonl say of the image."""
        return asdict(self)


class ReferenceSchedule(DDIMScheduler):  # type: ignore[misc]
    """DDIM over the released code's times: 991, 969, ..., 1, which are 46 where 45 were asked for."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the times; the stride is that of 45 steps whatever is asked for."""
        total: int = self.config.num_train_timesteps  # type: ignore[attr-defined]
        self.num_inference_steps = REFERENCE_STEPS - 1
        times = torch.arange(0, total, total // self.num_inference_steps) + 1
        self.timesteps = times.flip(0).to(device)


def generate(job: Job) -> int:
    """Make the images that are missing, then generation.jsonl, and return the exit code.

    Raises `UserError` for a mistake, also where the folder holds images with other settings.
    """
    from accelerate import PartialState

    device = choose_device(job.device)
    base = open_base(job.model, "--model")
    about = _about(base)
    options = _checked(job.options, base, about)
    pictures = _pictures(job, about)
    settings = _settings(base, about, job, options)
    if job.dry_run:
        print(f"{len(pictures)} images of {settings['resolution']} px, {steps_of(options)} steps each, to {job.out}")
        return 0
    require_writable_folder(job.out, "--out")
    _require_same_settings(job.out, settings)
    state = PartialState(cpu=device.type == "cpu")
    device = state.device if job.device == "auto" else device
    missing = [one for one in pictures if not _is_made(job.out, one)]
    state.wait_for_everyone()  # nobody makes one before all have the same list to share out
    mine = missing[state.process_index :: state.num_processes]
    print(f"handtrain: {len(missing)} of {len(pictures)} images are to be made, on {device}", file=sys.stderr)
    start = time.monotonic()
    if mine:
        _make(mine, base, about, settings, options, job, device)
    state.wait_for_everyone()
    if state.is_main_process:
        seconds = time.monotonic() - start
        _finish(job.out, {"images": len(missing), "seconds": round(seconds, 1), "device": _device_name(device)})
    return 0


def steps_of(options: GenerateOptions) -> int:
    """Return how many denoising steps an image takes."""
    return REFERENCE_STEPS if options.sampler == "reference" else options.steps


def image_seed(seed: int, key: str | None, sampler: str) -> int:
    """Return the seed of an image's noise. `key` names its prompt among several; a single prompt's is the seed itself.

    The released code begins every prompt from the same noise; independent images are what metrics are made for.
    """
    return seed if key is None or sampler == "reference" else seed_of("image", seed, key)


def read_record(file: Path) -> dict[str, Any] | None:
    """Return what a PNG says of itself; None if it is none of ours, or not whole."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image.load()
            text = image.info.get(SETTINGS)
    except (FileNotFoundError, UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None
    return json.loads(text) if text else None


def _make(
    pictures: list[Picture],
    base: Base,
    about: dict[str, Any],
    settings: dict[str, Any],
    options: GenerateOptions,
    job: Job,
    device: torch.device,
) -> None:
    from tqdm import tqdm

    pipeline = load_pipeline(base, about, options, device)
    prompts = list(dict.fromkeys(one.prompt for one in pictures))
    rows = {prompt: index for index, prompt in enumerate(prompts)}
    embeddings = embed(pipeline, prompts, options.mu)  # one pass of the flat layer for all of them
    negative = embed_plainly(pipeline, [options.negative_prompt])
    bar = tqdm(total=len(pictures), unit="image", desc=job.out.name, disable=None)
    for start in range(0, len(pictures), job.batch):
        part = pictures[start : start + job.batch]
        images = pipeline(
            prompt_embeds=embeddings[[rows[one.prompt] for one in part]].to(device, pipeline.unet.dtype),
            negative_prompt_embeds=negative.expand(len(part), -1, -1).to(device, pipeline.unet.dtype),
            height=settings["resolution"],
            width=settings["resolution"],
            num_inference_steps=steps_of(options),
            guidance_scale=options.guidance,
            eta=options.eta,
            generator=[torch.Generator().manual_seed(one.noise_seed) for one in part],
        ).images
        for one, image in zip(part, images, strict=True):
            _save(job.out / one.file, image, one, settings)
        bar.update(len(part))
    bar.close()


def load_pipeline(base: Base, about: dict[str, Any], options: GenerateOptions, device: torch.device) -> Any:
    """Return the pipeline of a trained model (`about` is its hand1000.json) or of a plain base, with DDIM, no checker.

    A safety checker would turn images black, and what is evaluated would be the checker.
    """
    kind: Any = Hand1000Pipeline if about else StableDiffusionPipeline
    try:
        pipeline = kind.from_pretrained(
            base.folder,
            dtype=_TYPES[options.precision],
            safety_checker=None,
            requires_safety_checker=False,
            use_safetensors=True,
        )
    except ValueError as error:  # a torch that draws another flat layer
        raise UserError(f"--model {base.folder}: {error}") from None
    schedule = base.sampling_schedule()
    if options.sampler == "reference":
        schedule = ReferenceSchedule.from_config(schedule.config)  # type: ignore[no-untyped-call]
    pipeline.scheduler = schedule
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def embed_plainly(pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Return the text encoder's embeddings (n, tokens, width) on the CPU."""
    found = []
    with torch.no_grad():
        for prompt in prompts:  # one by one: company would change the last bits
            text, _ = StableDiffusionPipeline.encode_prompt(pipeline, prompt, pipeline.device, 1, False)
            found.append(text.cpu())
    return torch.cat(found)


def embed(pipeline: Any, prompts: Sequence[str], mu: float | None) -> torch.Tensor:
    """Return the embeddings (n, tokens, width) with which images are made: mixed with the gesture if there is one."""
    text = embed_plainly(pipeline, prompts)
    if not isinstance(pipeline, Hand1000Pipeline):
        return text
    with torch.no_grad():
        return pipeline.with_gesture(text, mu)


def _pictures(job: Job, about: dict[str, Any]) -> list[Picture]:
    if not job.seeds:
        raise UserError("--seeds names no seed: give at least one, such as 0")
    prompts = _prompts(job, about)
    return [
        Picture(f"{key or 'image'}-s{seed}.png", prompt, seed, image_seed(seed, key, job.options.sampler))
        for key, prompt in prompts
        for seed in dict.fromkeys(job.seeds)
    ]


def _prompts(job: Job, about: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Return the prompts with their keys: the image_id of a dataset's row, the number of a file's line."""
    if (job.prompt is None) == (job.prompts is None):
        raise UserError("say what to generate with either --prompt or --prompts")
    if job.prompt is not None:
        return [(None, job.prompt)]
    dataset = split_of(str(job.prompts), "--prompts")
    if dataset:
        gesture = job.gesture or about.get("gesture")
        if gesture is None:
            raise UserError(f"--prompts {job.prompts} needs --gesture: a plain base model has none")
        rows = load(dataset[0], gesture, dataset[1], job.limit, "--prompts").rows
        return [(re.sub(r"[^\w.-]", "_", row.image_id), row.text) for row in rows]
    file = Path(str(job.prompts))
    if not file.is_file():
        raise UserError(f"--prompts {file} is no file: name one with a prompt per line, or DATASET:SPLIT")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [(f"{number:05d}", line) for number, line in enumerate(line for line in lines if line)]
    if not found:
        raise UserError(f"--prompts {file} holds no prompt: write one per line")
    return list(found[: job.limit or None])


def _about(base: Base) -> dict[str, Any]:
    file = base.folder / ABOUT_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _checked(options: GenerateOptions, base: Base, about: dict[str, Any]) -> GenerateOptions:
    if options.mu is not None and not 0 <= options.mu <= 1:
        raise UserError(f"--mu {options.mu} is outside 0 to 1")
    if options.mu is not None and not about:
        raise UserError("--mu says how much of the gesture is mixed in, and this model has none: leave it out")
    if options.steps < 1:
        raise UserError(f"--steps {options.steps} must be at least 1")
    base.check_resolution(options.resolution)
    return options


def _settings(base: Base, about: dict[str, Any], job: Job, options: GenerateOptions) -> dict[str, Any]:
    weights = sorted(base.folder.glob("unet/*.safetensors"))
    sha256 = hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest()
    lam = about.get("lam")
    return {
        "model": str(base.commit or base.folder),
        "unet_sha256": sha256,
        "gesture": job.gesture or about.get("gesture"),
        "tuned": bool(about),
        "lam": lam,
        "mu": lam if options.mu is None else options.mu,
        "crop": about.get("crop", "center"),
        "resolution": base.check_resolution(options.resolution or about.get("resolution", 0)),
        "sampler": options.sampler,
        "steps": steps_of(options),
        "guidance": options.guidance,
        "eta": options.eta,
        "negative_prompt": options.negative_prompt,
        "precision": options.precision,
        "safety_checker": False,
    }


def _require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    file = out / GENERATION_SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if name != "model" and before.get(name) != value:
                raise UserError(
                    f"--out {out} holds images with other settings ({name} was {before.get(name)}, is {value}): "
                    "choose another folder"
                )
    else:
        write_text(file, json.dumps(settings, indent=1) + "\n")


def _is_made(out: Path, picture: Picture) -> bool:
    return read_record(out / picture.file) == picture.record()


def _save(file: Path, image: Any, picture: Picture, settings: dict[str, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(SETTINGS, json.dumps(picture.record()))
    info.add_itxt("hand1000-settings", json.dumps(settings))
    info.add_itxt("parameters", _parameters(picture, settings))
    partial = file.with_name(f".{file.name}.partial")
    image.save(partial, format="PNG", pnginfo=info)
    partial.replace(file)


def _parameters(picture: Picture, settings: dict[str, Any]) -> str:
    """Return the settings in the words that many programs show of a PNG."""
    size = f"{settings['resolution']}x{settings['resolution']}"
    lines = [
        picture.prompt,
        *([f"Negative prompt: {settings['negative_prompt']}"] if settings["negative_prompt"] else []),
    ]
    steps, guidance = settings["steps"], settings["guidance"]
    lines.append(f"Steps: {steps}, Sampler: DDIM, CFG scale: {guidance}, Seed: {picture.noise_seed}, Size: {size}")
    return "\n".join(lines)


def _finish(out: Path, session: dict[str, Any]) -> None:
    """Write generation.jsonl from the images themselves, and count the black ones."""
    records = list(_records(out))
    write_text(out / GENERATION_FILE, "".join(json.dumps(record) + "\n" for record in records))
    file = out / GENERATION_SETTINGS
    settings = json.loads(file.read_text(encoding="utf-8"))
    if session["images"]:
        settings["sessions"] = [*settings.get("sessions", []), session]
    black = sum(record["black"] for record in records)
    write_text(file, json.dumps({**settings, "images": len(records), "black": black}, indent=1) + "\n")
    print(f"{out}: {len(records)} images" + (f", {black} of them black" if black else ""))


def _records(out: Path) -> Iterator[dict[str, Any]]:
    from PIL import Image

    for file in sorted(out.glob("*.png")):
        record = read_record(file)
        if record is not None:
            with Image.open(file) as image:
                black = is_black(image.convert("RGB"))
            yield {**record, "black": black}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
