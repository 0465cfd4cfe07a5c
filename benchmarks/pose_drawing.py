"""The images of `benchmarks.pose_method`: drawn by a model in batches across gestures, or real ones."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pose_world
from benchmarks.pose_rows import BASE, Part, Row

STEPS, GUIDANCE, AT_ONCE = 20, 3.0, 240


def drawn(row: Row, model: str | Path, folder: Path, device: str) -> dict[str, np.ndarray]:
    """Return the images of all parts with their prompts and poses, drawn in batches across the gestures."""
    import torch

    from handdata.huggingface import parse_model
    from handtrain.generation.generate import load_pipeline
    from handtrain.model.base import open_base
    from handtrain.options import GenerateOptions

    base = open_base(parse_model(str(model), "--model"))
    file = base.folder / "hand1000.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    pipeline = load_pipeline(base, about, GenerateOptions(), torch.device(device))
    entries = [
        entry for part in row.parts for gesture in part.gestures for entry in _entries(part, gesture, folder, about)
    ]
    poses = np.stack([entry[3] for entry in entries]).astype(np.float32)
    images = np.zeros((len(entries), pose_world.SIZE, pose_world.SIZE, 3), np.uint8)
    scales = np.array([row.drawing.get("guidance", GUIDANCE) if entry[5] is None else entry[5] for entry in entries])
    apart = {"pose_guidance": row.drawing["pose_guidance"]} if "pose_guidance" in row.drawing else {}
    empty = _embedded(base, pipeline, "").to(device)
    for scale in np.unique(scales).tolist():
        places = np.flatnonzero(scales == scale)
        for of in np.split(places, range(AT_ONCE, len(places), AT_ONCE)):
            posed = {"poses": torch.from_numpy(poses[of]), **apart} if about.get("pose") else {}
            text = torch.stack([_embedded(base, pipeline, entries[place][2]) for place in of])
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
                drawn = pipeline(
                    prompt_embeds=text.to(device), negative_prompt_embeds=empty.expand(len(of), -1, -1),
                    height=pose_world.SIZE, width=pose_world.SIZE, num_inference_steps=row.drawing.get("steps", STEPS),
                    guidance_scale=scale, output_type="np",
                    generator=[torch.Generator().manual_seed(entries[place][4]) for place in of], **posed,
                ).images  # fmt: skip
            images[of] = (np.asarray(drawn, dtype=np.float32) * 255).round().astype(np.uint8)
    kinds, gestures, prompts = (np.array([entry[column] for entry in entries]) for column in range(3))
    columns = {"kinds": kinds, "gestures": gestures, "prompts": prompts}
    return {**pose_world.packed(images), "poses": poses, **columns}


def real(row: Row, folder: Path, device: str) -> dict[str, np.ndarray]:
    """Return test pictures as they are (`real`) and through the base's VAE (`vae`), in the columns of `_drawn`."""
    from handtrain.data.dataset import load

    pixels, kinds, gestures = [], [], []
    for part in row.parts:
        for gesture in part.gestures:
            photographs = load(folder / "dataset", gesture, "test", part.count)
            images = np.stack([pose_world.resized(photographs.image(n)) for n in range(len(photographs.rows))])
            if part.kind == "vae":
                images = through_vae(images, device)
            pixels.append(images)
            kinds += [part.kind] * len(images)
            gestures += [gesture] * len(images)
    columns = {"kinds": np.array(kinds), "gestures": np.array(gestures), "prompts": np.full(len(kinds), "")}
    return {**pose_world.packed(np.concatenate(pixels)), "poses": np.full((len(kinds), 64), np.nan), **columns}


def through_vae(images: np.ndarray, device: str) -> np.ndarray:
    """Return images (n, h, w, 3) of uint8 as the base's VAE reproduces them."""
    import torch

    from handdata.huggingface import parse_model
    from handtrain.model.base import open_base

    vae = open_base(parse_model(BASE, "--base")).vae().to(device)
    values = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1  # (n, 3, h, w)
    with torch.no_grad():
        decoded = vae.decode(vae.encode(values).latent_dist.mean).sample.clamp(-1, 1)
    pixels: np.ndarray = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _entries(part: Part, gesture: str, folder: Path, about: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield kind, gesture, prompt, pose (64,), noise seed and guidance of the images of a part; NaN is an open pose.

    Test rows repeat with other noise. The noise depends on gesture and number alone: all rows of the table share it.
    """
    from handtrain.method.noise import seed_of
    from handtrain.method.poses import from_bank, pose_of_row

    rows, captions = _test_rows(folder / "dataset", gesture)
    bank: Any = from_bank(about["gestures"][gesture].get("poses", [])) if part.kind == "own" else []
    for number in range(part.count):
        row, pose = rows[number % len(rows)], np.full(64, np.nan)
        if part.kind == "rows":
            pose = pose_of_row(row, pose_world.SIZE, "center")
        elif len(bank):
            pose = bank[seed_of("own", gesture, number) % len(bank)]
        prompt = captions[number % len(captions)] if part.kind == "free" else row.text
        yield part.kind, gesture, prompt, pose, seed_of("bench", gesture, number), part.guidance


@cache
def _test_rows(dataset: Path, gesture: str) -> tuple[list[Any], list[str]]:
    from handtrain.data.dataset import load

    return load(dataset, gesture, "test").rows, list(pose_world.texts_without_gesture(dataset, [gesture], 40))


_EMBEDDINGS: dict[str, Any] = {}  # of this process; the text encoder is the base's in all models


def _embedded(base: Any, pipeline: Any, prompt: str) -> Any:
    from handtrain.generation.generate import embed_plainly

    if prompt not in _EMBEDDINGS:
        _EMBEDDINGS[prompt] = embed_plainly(base, pipeline, [prompt]).embedding[0]
    return _EMBEDDINGS[prompt]
