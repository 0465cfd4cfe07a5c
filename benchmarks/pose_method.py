"""Measure pose conditioning on the mini world: routes, switches, a fair baseline, unseen gestures, specificity.

    python -m benchmarks.pose_method --out FOLDER --stages screen grid [--samples 4000] [--jobs 2] [--device cpu]
    python -m benchmarks.pose_method --out FOLDER --stages screen --table

Rows are made by a few processes, each of which makes one row after the other. A finished row is a JSON file in
--results and is not made again; an interrupted training resumes. Without MediaPipe (or with --draw-only) the images are
kept in FOLDER/images, and the same command judges them where MediaPipe is installed. --winner and --baseline are JSON
files with the options of the rows `winner` and `no pose`; by default those of `benchmarks.pose_rows`.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pose_rows, pose_world
from benchmarks.pose_rows import Part, Row

BASE = "mini-stable-diffusion"
STEPS, GUIDANCE, AT_ONCE = 20, 3.0, 240
STAGES = ("screen", "grid", "explore", "presets", "ceiling", "final")
RESULTS = Path(__file__).parent / "results" / "pose"


def rows_of(given: argparse.Namespace) -> list[Row]:
    """Return the rows of the chosen stages, the base's first."""
    winner = _options(given.winner, pose_rows.PLUS)
    baseline = _options(given.baseline, pose_rows.FAIR)
    samples, long = given.samples, given.final_samples
    by_stage: dict[str, Callable[[], Iterable[Row]]] = {
        "screen": lambda: pose_rows.screen(samples),
        "grid": lambda: pose_rows.grid(samples),
        "explore": pose_rows.explore,
        "presets": pose_rows.presets,
        "ceiling": lambda: [pose_rows.ceiling()],
        "final": lambda: pose_rows.final(long, winner, baseline, given.seeds),
    }
    rows = [pose_rows.base(), *(row for stage in given.stages for row in by_stage[stage]())]
    if given.limit:
        rows = [replace(row, options={**row.options, "limit": given.limit}) for row in rows]
    if given.images:
        fewer = [tuple(replace(part, count=min(part.count, given.images)) for part in row.parts) for row in rows]
        rows = [replace(row, parts=parts) for row, parts in zip(rows, fewer, strict=True)]
    return [row for row in rows if not given.only or row.stage == "base" or any(o in row.name for o in given.only)]


def make(row: Row, folder: Path, device: str, threads: int) -> str:
    """Train a row and draw its images into FOLDER/images; return a line about it. It runs in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    target = folder / "images" / f"{row.name}.npz"
    if target.is_file():
        return f"{row.name}: drawn before"
    start, run = time.monotonic(), folder / "runs" / row.name
    model: str | Path = BASE
    if row.gestures:
        model = _train(row, folder, run, device)
    trained = time.monotonic()
    columns = _real(row, folder, device) if row.stage == "ceiling" else _drawn(row, model, folder, device)
    about = {
        "train_s": round(trained - start, 1), "draw_s": round(time.monotonic() - trained, 1), "device": _named(device),
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    with partial.open("wb") as file:
        np.savez_compressed(file, **columns, about=np.array(json.dumps(about)))  # type: ignore[arg-type]
    partial.rename(target)
    if not row.keep:
        shutil.rmtree(run, ignore_errors=True)
    return f"{row.name}: trained in {about['train_s']} s, drawn in {about['draw_s']} s"


def _train(row: Row, folder: Path, run: Path, device: str, samples: int | None = None) -> Path:
    from handtrain.training.train import train

    finished = train(
        folder / "dataset", gesture=row.gestures, base=BASE, out=run, device=device, cache=folder / "cache",
        progress=False, seed=row.seed,
        **{"unet_samples": row.samples if samples is None else samples, "prior_images": 512, **row.options},
        sample_every=0, validate_every=0, tensorboard=False, safety_checker=False, checkpoint_minutes=60.0,
    )  # fmt: skip
    for name in ("checkpoints", "stage2"):
        shutil.rmtree(run / name, ignore_errors=True)
    return finished.model


def encode(row: Row, folder: Path, device: str, threads: int) -> str:
    """Fill the cache of latents and texts before the other processes read it."""
    import torch

    torch.set_num_threads(threads)
    run = folder / "runs" / "encode"
    shutil.rmtree(run, ignore_errors=True)
    _train(row, folder, run, device, samples=row.options["unet_batch"])
    shutil.rmtree(run, ignore_errors=True)
    return "encoded"


def _drawn(row: Row, model: str | Path, folder: Path, device: str) -> dict[str, np.ndarray]:
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
    empty = _embedded(pipeline, "").to(device)
    for scale in np.unique(scales).tolist():
        places = np.flatnonzero(scales == scale)
        for of in np.split(places, range(AT_ONCE, len(places), AT_ONCE)):
            posed = {"poses": torch.from_numpy(poses[of]), **apart} if about.get("pose") else {}
            text = torch.stack([_embedded(pipeline, entries[place][2]) for place in of])
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


def _real(row: Row, folder: Path, device: str) -> dict[str, np.ndarray]:
    """Return test pictures as they are (`real`) and through the base's VAE (`vae`), in the columns of `_drawn`."""
    import torch

    from handdata.huggingface import parse_model
    from handtrain.data.dataset import load
    from handtrain.model.base import open_base

    vae = open_base(parse_model(BASE, "--base")).vae().to(device)
    pixels, kinds, gestures = [], [], []
    for part in row.parts:
        for gesture in part.gestures:
            photographs = load(folder / "dataset", gesture, "test", part.count)
            images = np.stack([pose_world.resized(photographs.image(n)) for n in range(len(photographs.rows))])
            if part.kind == "vae":
                values = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1  # (n, 3, h, w)
                with torch.no_grad():
                    decoded = vae.decode(vae.encode(values).latent_dist.mean).sample.clamp(-1, 1)
                images = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            pixels.append(images)
            kinds += [part.kind] * len(images)
            gestures += [gesture] * len(images)
    columns = {"kinds": np.array(kinds), "gestures": np.array(gestures), "prompts": np.full(len(kinds), "")}
    return {**pose_world.packed(np.concatenate(pixels)), "poses": np.full((len(kinds), 64), np.nan), **columns}


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


def _embedded(pipeline: Any, prompt: str) -> Any:
    from handtrain.generation.generate import embed_plainly

    if prompt not in _EMBEDDINGS:
        _EMBEDDINGS[prompt] = embed_plainly(pipeline, [prompt])[0]
    return _EMBEDDINGS[prompt]


def judge(row: Row, folder: Path, results: Path, colours: bool) -> str:
    """Write the result of a row from its images; return a line about it. It runs in a process of its own."""
    from handtrain.evaluation import gesture_judge, metrics, side_effects

    with np.load(folder / "images" / f"{row.name}.npz") as file:
        columns = pose_world.unpacked({name: file[name] for name in file.files})
    found = pose_world.find_hands(list(columns["images"]))
    known = metrics.GestureJudge.fit(*pose_world.known_hands(folder))
    names = [gesture_judge.named(hands, known) if hands else [] for hands in found]
    errors = side_effects.pose_errors(columns["poses"], found)
    right = _colours(columns) if colours and row.stage != "ceiling" else {}
    parts = []
    of_parts = np.where(columns["kinds"] == "free", "", columns["gestures"])  # without a gesture: one part of all
    for kind, gesture in dict.fromkeys(zip(columns["kinds"].tolist(), of_parts.tolist(), strict=True)):
        chosen = np.flatnonzero((columns["kinds"] == kind) & (of_parts == gesture))
        made = side_effects.makes([names[place] for place in chosen], gesture)
        asked = chosen[~np.isnan(columns["poses"][chosen]).any(axis=1)]
        entry: dict[str, Any] = {
            "kind": kind, "gesture": gesture, "n": len(chosen), "accuracy": round(float(made.mean()), 4),
            "hand_found": round(float(np.mean([bool(found[place]) for place in chosen])), 4),
            "gestures": _counts([names[place] for place in chosen]),
        }  # fmt: skip
        if len(asked):
            of_asked = errors[asked]
            entry["pose_error"] = _number(np.nanmedian(of_asked) if np.isfinite(of_asked).any() else np.nan)
            entry["no_hand"] = round(float(np.isnan(of_asked).mean()), 4)
        for name, values in right.items():
            known_values = values[chosen][~np.isnan(values[chosen])]
            entry[name] = _number(known_values.mean() if len(known_values) else np.nan)
        parts.append(entry)
    record = {
        "name": row.name, "stage": row.stage, "variant": row.variant, "seed": row.seed, "samples": row.samples,
        "trained": list(row.gestures), "options": row.options, "drawing": row.drawing,
        "about": json.loads(str(columns["about"])), **_scenes(row, columns, folder), "parts": parts,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{row.name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
    return f"{row.name}: judged"


def _scenes(row: Row, columns: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    """Return the distance of gesture-free images to the base's from the same prompts and noise."""
    from handtrain.evaluation import side_effects

    file = folder / "images" / f"{pose_rows.base().name}.npz"
    free = np.flatnonzero(columns["kinds"] == "free")
    if row.stage == "base" or not file.is_file() or not len(free):
        return {}
    with np.load(file) as of_base:
        base = pose_world.unpacked({name: of_base[name] for name in of_base.files})
    partners, others = [], []
    for gesture in dict.fromkeys(columns["gestures"][free].tolist()):
        places = np.flatnonzero((base["kinds"] == "free") & (base["gestures"] == gesture))
        count = int((columns["gestures"][free] == gesture).sum())
        partners += places[:count].tolist()
        others += np.roll(places[:count], 1).tolist()
    pixels = columns["images"][free], base["images"][partners], base["images"][others]
    return {"retention": {name: value["value"] for name, value in side_effects.retention(*pixels).items()}}


def _colours(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return for each image 1 or 0 as its colours are those of the prompt; NaN where it names none."""
    from handdata.recipe import CaptionOptions
    from handdata.texts.captioner import Captioner
    from handtrain.mini.colours import agreement

    captioner = Captioner(CaptionOptions(model="mini-blip", batch=64, device="cpu"))
    images, prompts = list(columns["images"]), columns["prompts"].tolist()
    told = [text for first in range(0, len(images), 64) for text in captioner.describe(images[first : first + 64])]
    captioner.close()
    verdicts = [agreement(prompt, text) for prompt, text in zip(prompts, told, strict=True)]
    return {
        name: np.array([float(verdict[name]) if name in verdict else np.nan for verdict in verdicts])
        for name in ("sleeve", "background")
    }


def _counts(names: Sequence[Sequence[str]]) -> dict[str, int]:
    every = sorted({name for of_image in names for name in of_image})
    return {name: sum(name in of_image for of_image in names) for name in every}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _named(device: str) -> str:
    import torch

    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    )


def _options(path: Path | None, default: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path else default
    return chosen


def table(rows: Sequence[Row], results: Path) -> str:
    """Return a Markdown table of the finished rows: accuracy by kind and gesture, pose error, colours, scenes."""
    lines = []
    for row in rows:
        file = results / f"{row.name}.json"
        if not file.is_file():
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        gesture = row.gestures[0] if len(row.gestures) == 1 else str(len(row.gestures) or "")
        cells = [row.stage, row.variant, gesture, str(row.samples), str(row.seed)]
        for kind in ("rows", "own", "words"):
            of_kind = [part for part in record["parts"] if part["kind"] == kind]
            seen = [part for part in of_kind if part["gesture"] in row.gestures or not row.gestures]
            new = [part for part in of_kind if part not in seen]
            cells += [_mean(seen, "accuracy"), _mean(new, "accuracy")]
        posed = [part for part in record["parts"] if "pose_error" in part]
        cells += [_mean([p for p in posed if (p["gesture"] in row.gestures) == known], "pose_error", 1, 3)
                  for known in (True, False)]  # fmt: skip
        free = [part for part in record["parts"] if part["kind"] == "free"]
        images = sum(part["n"] for part in free)
        unasked = sum(part["gestures"].get(name, 0) for part in free for name in row.gestures[:1])
        cells += [f"{100 * unasked / images:.0f}" if images and len(row.gestures) == 1 else ""]
        cells += [_mean(record["parts"], name) for name in ("sleeve", "background")]
        cells.append(f"{record.get('retention', {}).get('distance', float('nan')):.3f}")
        cells.append(str(record["about"]["train_s"]))
        lines.append("| " + " | ".join(cells) + " |")
    head = [
        "stage", "variant", "gestures", "samples", "seed", "posed, trained", "posed, new", "own, trained", "own, new",
        "words, trained", "words, new", "error, trained", "error, new", "unasked", "sleeve", "wall", "scene", "s",
    ]  # fmt: skip
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def _mean(parts: Sequence[dict[str, Any]], name: str, scale: float = 100, places: int = 0) -> str:
    values = [part[name] for part in parts if part.get(name) is not None]
    return f"{scale * float(np.mean(values)):.{places}f}" if values else ""


def perform(rows: list[Row], given: argparse.Namespace) -> None:
    """Make and judge the missing rows until the minutes are over."""
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    results: Path = given.results
    missing = [row for row in rows if not (results / f"{row.name}.json").is_file()]
    undrawn = [row for row in missing if not (given.out / "images" / f"{row.name}.npz").is_file()]
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    can_judge = not given.draw_only and find_spec("mediapipe") is not None
    with pose_world.pool(given.jobs) as workers:
        if any(row.gestures for row in undrawn):
            options = {**pose_rows.PLUS, "prior": 0.0, "limit": given.limit}
            every = Row("encode", "encode", pose_rows.EVERY, options, 0, ())
            print(workers.submit(encode, every, given.out, given.device, threads).result(), file=sys.stderr, flush=True)
        print(workers.submit(make, rows[0], given.out, given.device, threads).result(), file=sys.stderr, flush=True)
        coming = [workers.submit(_whole, row, given, threads, end, can_judge) for row in missing]
        for row, future in zip(missing, coming, strict=True):
            error = future.exception()  # of one row: the others are made all the same
            print(f"{row.name}: failed, {error!r}" if error else future.result(), file=sys.stderr, flush=True)


def _whole(row: Row, given: argparse.Namespace, threads: int, end: float, can_judge: bool) -> str:
    # time.monotonic is the machine's, so processes can compare it
    if time.monotonic() > end:
        return f"{row.name}: left for the next call"
    line = make(row, given.out, given.device, threads)
    if can_judge:
        line += "; " + judge(row, given.out, given.results, not given.no_colours)
    return line


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the world, caches, runs and images")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=["screen"])
    made.add_argument("--only", nargs="*", default=[], help="only rows whose name contains one of these texts")
    made.add_argument("--samples", type=int, default=4000, help="training samples of a row")
    made.add_argument("--final-samples", type=int, default=65536, help="training samples of the final rows")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--limit", type=int, default=0, help="training images per gesture, for a trial; 0: all")
    made.add_argument("--winner", type=Path, help="JSON file with the winner's options")
    made.add_argument("--baseline", type=Path, help="JSON file with the fair baseline's options")
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of processes")
    made.add_argument("--images", type=int, default=0, help="images per gesture and part, for a trial; 0: all")
    made.add_argument("--device", default="cpu")
    made.add_argument("--minutes", type=float, default=0, help="start no row after this time; 0: no limit")
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--draw-only", action="store_true", help="keep the images for another call")
    made.add_argument("--no-colours", action="store_true")
    made.add_argument("--table", action="store_true", help="print the table of the finished rows alone")
    return made


def main() -> None:
    given = parser().parse_args()
    rows = rows_of(given)
    if not given.table:
        pose_world.prepare(given.out, given.jobs)
        perform(rows, given)
    print(table(rows, given.results))


if __name__ == "__main__":
    main()
