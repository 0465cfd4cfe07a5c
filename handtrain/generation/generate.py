"""Generate images from a trained model or a plain base in the same way, each from its own seed; resumable."""

import hashlib
import math
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler

from handdata.errors import UserError
from handdata.files import require_writable_folder
from handdata.huggingface import parse_model
from handdata.limits.numbers import require_seeds
from handdata.machine import choose_device, cores
from handdata.progress import bar
from handdata.readers import lines_of, read_text
from handtrain.data.dataset import load
from handtrain.data.image_folder import split_of
from handtrain.data.rows import Row
from handtrain.generation import pictures
from handtrain.generation.batches import batches, number_format, wait
from handtrain.generation.pictures import Picture
from handtrain.generation.poses import check_pose, chosen_pose, poses_of
from handtrain.generation.sampling import decode_in_float32, guidance_of
from handtrain.hashes import known_sha256
from handtrain.method.conditioning import POSE_NUMBERS
from handtrain.method.micro_batch import release_memory
from handtrain.method.noise import seed_of
from handtrain.method.poses import pose_of_row
from handtrain.method.prediction import Texts, stacked
from handtrain.model.about import require_whole
from handtrain.model.base import Base, open_base
from handtrain.model.gesture_file import ABOUT_FILE, FUSION_FILE, POSE_FILE, Gesture
from handtrain.options import GenerateOptions, changed

REFERENCE_STEPS = 46  # the released code requests 45 from its sampler
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ReferenceSchedule(DDIMScheduler):  # type: ignore[misc]
    """DDIM over the released code's times: 991, 969, ..., 1, which are 46 although 45 were requested."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the times; the stride is that of 45 steps, whatever number is requested."""
        total: int = self.config.num_train_timesteps  # type: ignore[attr-defined]
        self.num_inference_steps = REFERENCE_STEPS - 1
        times = torch.arange(0, total, total // self.num_inference_steps) + 1
        self.timesteps = times.flip(0).to(device)


@dataclass(frozen=True)
class Work:
    """The checked images of one call, with the model and the settings to generate them."""

    base: Base
    about: dict[str, Any]  # hand1000.json of a trained model, empty for a plain base
    options: GenerateOptions
    settings: dict[str, Any]  # shared by all images, as in generation.json
    pictures: list[Picture]


def generate(
    model: str | Path,
    *,
    out: str | Path,
    prompts: str | Path | None = None,
    prompt: str | None = None,
    gesture: str | None = None,
    seeds: Sequence[int] = (0,),
    limit: int = 0,
    batch: int | Literal["auto"] = "auto",
    device: str = "auto",
    progress: bool = True,
    prediction_type: str | None = None,
    options: GenerateOptions | None = None,
    **changes: Any,
) -> Path:
    """Generate the images that the folder `out` does not have yet, then its generation.jsonl; return the folder.

    `prompts` is a file with one prompt per line, or DATASET:SPLIT; `prompt` is a single one. An image depends on its
    prompt and seed, and not on the batch (`auto`: halved when memory runs out) or the number of processes. `changes`
    are fields of the options. Raises `UserError` for a mistake, also where the folder has other images.
    """
    from accelerate import PartialState

    chosen, out = choose_device(device), Path(out)
    work = _work(
        model, chosen, prompts=prompts, prompt=prompt, gesture=gesture, seeds=seeds, limit=limit, options=options,
        prediction_type=prediction_type, **changes,
    )  # fmt: skip
    require_writable_folder(out, "--out")
    pictures.require_same_settings(out, work.settings)
    state = PartialState(cpu=chosen.type == "cpu")
    chosen = state.device if device == "auto" else chosen
    missing = pictures.missing(out, work.pictures)
    state.wait_for_everyone()  # until all have the same list, no process may add images
    if progress:
        print(f"handtrain: {len(missing)} of {len(work.pictures)} images to generate, on {chosen}", file=sys.stderr)
    start = time.monotonic()
    if share := missing[state.process_index :: state.num_processes]:
        _generate(share, work, out, batch, chosen, progress)
    state.wait_for_everyone()
    if state.is_main_process:
        seconds = round(time.monotonic() - start, 1)
        pictures.finish(out, {"images": len(missing), "seconds": seconds, "device": _device_name(chosen)})
    return out


def planned(model: str | Path, *, out: str | Path, device: str = "auto", batch: Any = "auto", **arguments: Any) -> str:
    """Check the arguments of `generate` and return what it would do, as one line."""
    work = _work(model, choose_device(device), **arguments)
    size, steps = work.settings["resolution"], work.settings["steps"]
    return f"{len(work.pictures)} images of {size} px, {steps} steps each, to {out}"


def steps_of(options: GenerateOptions) -> int:
    """Return the number of denoising steps of an image."""
    return REFERENCE_STEPS if options.sampler == "reference" else options.steps


def image_seed(seed: int, key: str | None, sampler: str) -> int:
    """Return the seed of an image's noise. `key` names its prompt; a single prompt has none and keeps `seed`.

    The released code starts every prompt from the same noise, but metrics assume independent images.
    """
    return seed if key is None or sampler == "reference" else seed_of("image", seed, key)


def load_pipeline(base: Base, about: dict[str, Any], options: GenerateOptions, device: torch.device) -> Any:
    """Return the pipeline of a trained model (`about` is its hand1000.json) or of a plain base, with DDIM.

    It has no safety checker, which would turn images black: the evaluation would measure the checker.
    """
    numbers = _TYPES[number_format(options, device)]
    networks = {part: base.network(part) for part in base.backbone.NETWORKS}
    for part, network in networks.items():
        if part == "vae" and base.backbone.decodes_in_float32(base.configs[part]):
            decode_in_float32(network)
        else:
            torch.nn.Module.to(network, dtype=numbers)  # diffusers' own `to` warns of no modules at all
    tokenizers = {part: base.tokenizer(part) for part in base.backbone.TOKENIZERS.values()}
    pipeline = base.pipeline({**networks, **tokenizers}, tuned=bool(about))
    if about and base.backbone.TUNED_PIPELINE:
        fusion = base.folder / FUSION_FILE
        try:  # this torch may draw another flat layer than the one that trained the model
            gesture = Gesture.load(str(base.folder / ABOUT_FILE), str(fusion) if fusion.is_file() else None)
            pipeline.mix_in(gesture)
            if "pose" in about:
                pose = base.folder / POSE_FILE
                pipeline.pose_by(about["pose"]["routes"], str(pose) if pose.is_file() else None)
        except ValueError as error:
            raise UserError(f"--model {base.folder}: {error}") from None
    if options.sampler == "reference":
        pipeline.scheduler = ReferenceSchedule.from_config(pipeline.scheduler.config)  # type: ignore[no-untyped-call]
    return pipeline.to(device)


def embed_plainly(base: Base, pipeline: Any, prompts: Sequence[str]) -> Texts:
    """Return encoded texts on the CPU."""
    backbone = base.backbone
    encoders, tokenizers = ([getattr(pipeline, part) for part in parts] for parts in (
        backbone.TOKENIZERS, backbone.TOKENIZERS.values()
    ))  # fmt: skip
    encoded = []
    for prompt in prompts:  # one at a time: the other prompts of a batch would change the last bits
        ids = backbone.ids(tokenizers, prompt, base.sizes.tokens, base.settings)
        encoded.append({name: tensor.cpu() for name, tensor in backbone.encode(encoders, ids).items()})
    return stacked(encoded)


def embed(base: Base, pipeline: Any, prompts: Sequence[str], mu: float | None) -> Texts:
    """Return the encoded texts, their embeddings mixed with the gesture if the model has a gesture."""
    texts = embed_plainly(base, pipeline, prompts)
    if not hasattr(pipeline, "with_gesture"):
        return texts
    with torch.no_grad():
        return replace(texts, embedding=pipeline.with_gesture(texts.embedding, mu))


def _generate(
    todo: list[Picture], work: Work, out: Path, batch: int | Literal["auto"], device: torch.device, progress: bool
) -> None:
    options, size = work.options, work.settings["resolution"]
    pipeline = load_pipeline(work.base, work.about, options, device)
    if device.type == "cuda":
        pipeline.vae.enable_slicing()  # decodes one image at a time, which takes the least memory
    prompts = list(dict.fromkeys(picture.prompt for picture in todo))
    rows = {prompt: index for index, prompt in enumerate(prompts)}
    texts = embed(work.base, pipeline, prompts, options.mu)  # one pass of the flat layer for all of them
    negative = embed_plainly(work.base, pipeline, [options.negative_prompt])
    assert options.guidance is not None
    sizes, start = batches(batch, device), 0
    with bar(total=len(todo), unit="image", desc=out.name, show=progress) as shown, ThreadPoolExecutor(cores()) as pool:
        writing: list[Future[None]] = []
        while start < len(todo):
            part, images = todo[start : start + sizes.size], []
            both = texts[[rows[picture.prompt] for picture in part]], negative.repeated(len(part))
            positive, others = (each.to(device, _TYPES[number_format(options, device)]) for each in both)
            try:
                images = pipeline(
                    **work.base.backbone.call(positive, others, options.guidance, options.eta),
                    height=size,
                    width=size,
                    num_inference_steps=steps_of(options),
                    generator=[torch.Generator().manual_seed(picture.noise_seed) for picture in part],
                    **_posed(part, options),
                ).images
            except (RuntimeError, MemoryError) as error:
                sizes.halve(error, len(part))
            if not images:
                release_memory(device)
                continue
            wait(writing)  # no more than two batches are in memory
            pairs = zip(part, images, strict=True)
            writing = [pool.submit(pictures.save, out / one.file, image, one, work.settings) for one, image in pairs]
            start += len(part)
            shown.update(len(part))
        wait(writing)


def _posed(part: Sequence[Picture], options: GenerateOptions) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for the poses of images; none if no image has a pose."""
    if all(picture.pose is None for picture in part):
        return {}
    poses = [picture.pose or (math.nan,) * POSE_NUMBERS for picture in part]
    return {"poses": torch.tensor(poses), "pose_guidance": options.pose_guidance}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _work(
    model: str | Path,
    device: torch.device,
    *,
    prompts: str | Path | None = None,
    prompt: str | None = None,
    gesture: str | None = None,
    seeds: Sequence[int] = (0,),
    limit: int = 0,
    options: GenerateOptions | None = None,
    prediction_type: str | None = None,
    **changes: Any,
) -> Work:
    """Open the model and list the images; raise `UserError` for the first mistake."""
    (options,) = changed(changes, options or GenerateOptions())
    assert options
    options = replace(options, precision=number_format(options, device))
    base = open_base(parse_model(str(model), "--model"), "--model", prediction_type)
    about = require_whole(base.folder, "--model") if (base.folder / ABOUT_FILE).exists() else {}
    if options.mu is not None and not 0 <= options.mu <= 1:
        raise UserError(f"--mu {options.mu} is outside 0 to 1")
    if options.mu is not None and not about:
        raise UserError(
            "--mu is the share of the text against the gesture, and this model has no gesture: leave it out"
        )
    if base.backbone.FLOW and (options.sampler == "reference" or options.eta):
        given = "--sampler reference" if options.sampler == "reference" else "--eta"
        raise UserError(f"{given} is not for a {base.backbone.PIPELINE}, which is sampled by Euler steps: leave it out")
    require_seeds(seeds, "--seeds")
    gesture = gesture or about.get("gesture")
    check_pose(about, options.pose, options.pose_guidance)
    if options.guidance is None:
        options = replace(options, guidance=guidance_of(bool(about.get("pose"))))
    keyed, rows = _prompts(prompts, prompt, gesture, limit)
    in_square = {key: pose_of_row(row, base.resolution, about.get("crop", "center")) for key, row in rows.items()}
    poses = poses_of(about, options.pose, keyed, in_square)
    todo = []
    for key, text in keyed:
        for seed in dict.fromkeys(seeds):
            noise = image_seed(seed, key, options.sampler)
            pose = chosen_pose(poses.get(key, ()), noise)
            todo.append(Picture(f"{key or 'image'}-s{seed}.png", text, seed, noise, pose))
    return Work(base, about, options, _settings(base, about, gesture, options), todo)


def _prompts(
    prompts: str | Path | None, prompt: str | None, gesture: str | None, limit: int
) -> tuple[list[tuple[str | None, str]], dict[str, Row]]:
    """Return the prompts with their keys, and a dataset's rows by key.

    A key is the image_id of a row or the number of a file's line; a single prompt has none.
    """
    if prompt is not None and prompts is None:
        return [(None, prompt)], {}
    if prompts is None or prompt is not None:
        raise UserError("give either --prompt or --prompts")
    dataset = split_of(str(prompts), "--prompts")
    if dataset:
        if gesture is None:
            raise UserError(f"--prompts {prompts} needs --gesture: the model has none, or several")
        rows = load(dataset[0], gesture, dataset[1], limit, "--prompts").rows
        by_key = {re.sub(r"[^\w.-]", "_", row.image_id): row for row in rows}
        return [(key, row.text) for key, row in by_key.items()], by_key
    file = Path(prompts)
    if not file.is_file():
        raise UserError(f"--prompts {file} is not a file: name one with a prompt per line, or DATASET:SPLIT")
    lines = [line.strip() for line in lines_of(read_text(file, "--prompts")) if line.strip()]
    if not lines:
        raise UserError(f"--prompts {file} has no prompt: write one per line")
    return [(f"{number:05d}", line) for number, line in enumerate(lines[: limit or None])], {}


def _settings(base: Base, about: dict[str, Any], gesture: str | None, options: GenerateOptions) -> dict[str, Any]:
    trained = [base.path] if base.single_file else base.folder.glob(f"{base.backbone.TRAINED}/*.safetensors")
    weights = sorted(file for file in trained if file.is_file())
    lam, scheduler = about.get("lam"), base.configs["scheduler"]
    of_file = {"prediction_type": scheduler.get("prediction_type")} if base.single_file else {}
    of_pose = {"pose": options.pose, "pose_guidance": options.pose_guidance} if about.get("pose") else {}
    return {
        "model": str(base.commit or base.path),
        "unet_sha256": hashlib.sha256("".join(map(known_sha256, weights)).encode()).hexdigest(),
        "gesture": gesture,
        "tuned": bool(about),
        "lam": lam,
        "mu": lam if options.mu is None else options.mu,
        "crop": about.get("crop", "center"),
        "resolution": base.check_resolution(options.resolution or about.get("resolution", 0)),
        "sampler": "euler" if base.backbone.FLOW else options.sampler,
        "steps": steps_of(options),
        "guidance": options.guidance,
        "eta": options.eta,
        "negative_prompt": options.negative_prompt,
        "precision": options.precision,
        "safety_checker": False,
        **of_file,
        **of_pose,
    }
