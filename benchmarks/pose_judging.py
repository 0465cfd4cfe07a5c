"""The results of `benchmarks.pose_method`: what its judges see in a row's images, as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pose_rows, pose_world
from benchmarks.pose_rows import Row


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
