"""Drive an evaluation: look through the images, run the networks over them, print the table, write the JSON."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from handdata import assets
from handdata.errors import UserError
from handdata.files import write_text
from handdata.huggingface import parse
from handdata.machine import choose_device
from handtrain.data.dataset import load
from handtrain.evaluation import bootstrap as intervals
from handtrain.evaluation import hands, metrics
from handtrain.evaluation import scores as compare
from handtrain.evaluation.extraction import Material
from handtrain.evaluation.gesture_judge import gesture_judge, known_hands
from handtrain.evaluation.image_sets import (
    ImageSet,
    Preparation,
    dataset_set,
    folder_set,
    generation_settings,
    one_size,
    partners,
    split_of,
)
from handtrain.evaluation.scores import Draws, Entry, Sides, not_computed
from handtrain.options import EvaluateOptions
from handtrain.tensor_cache import TensorCache

FORMAT = 2  # of the JSON; 1 told gestures apart by the dataset's own landmarks


@dataclass(frozen=True)
class Job:
    """What the command line of `handtrain evaluate` says."""

    real: str  # DATASET:SPLIT or a folder
    fake: Path
    base: Path | None = None
    gesture: str | None = None
    landmarks: str | None = None  # DATASET whose training hands tell gestures apart
    options: EvaluateOptions = field(default_factory=EvaluateOptions)
    json: Path | None = None
    details: Path | None = None
    device: str = "auto"
    cache: Path | None = None


def evaluate(job: Job) -> int:
    """Evaluate, print the table on stdout, write the JSON, and return the exit code."""
    result, lines = _evaluated(job)
    print(text_table(result))
    if job.json:
        job.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(job.json, json.dumps(result, indent=1) + "\n")
    if job.details:
        job.details.parent.mkdir(parents=True, exist_ok=True)
        write_text(job.details, "".join(json.dumps(line) + "\n" for line in lines))
    return 0


def evaluation(job: Job) -> dict[str, Any]:
    """Return all metrics with what they were computed from and how; see docs/evaluation.md for its keys.

    Raises `UserError` for a mistake. What lacks its weights is `not_computed`, with the reason.
    """
    return _evaluated(job)[0]


def _evaluated(job: Job) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Return the evaluation, and a line for every image of every side."""
    if job.options.bootstrap < 2:
        raise UserError(f"--bootstrap {job.options.bootstrap} must be at least 2")
    device = choose_device(job.device)
    print(f"handtrain: evaluating on {device}", file=sys.stderr)
    settings = generation_settings(job.fake)
    gesture = job.gesture or settings.get("gesture")
    sides = _sides(job, gesture)
    prepare = _preparation(job.options, settings, sides)
    cache = TensorCache(job.cache or assets.cache_folder() / "features")
    material = Material(job.options, sides, prepare, cache, device)
    draws = Draws.make(len(sides["real"].members), len(sides["fake"].members), job.options.bootstrap, job.options.seed)
    judge = _judge(job, gesture, material)
    result = {
        "format": FORMAT,
        "gesture": gesture,
        **{side: _about(images) for side, images in sides.items()},
        "settings": {side: generation_settings(Path(sides[side].source)) for side in sides if side != "real"},
        "preparation": str(prepare),
        "metrics": table(material, draws, judge, gesture),
        "hands": _hand_rules(),
        "weights": material.weights,
        "options": json.loads(json.dumps(asdict(job.options), default=str)),
        "versions": {
            name: version(name) for name in ("hand1000", "torch", "torchvision", "torch-fidelity", "mediapipe")
        },
    }
    return result, details(sides, material.rows.get("hands", {}), judge)


def details(sides: dict[str, ImageSet], found: Sides, judge: metrics.GestureJudge | str) -> Iterator[dict[str, Any]]:
    """Yield for every image of every side the hands found in it, each with the gesture that it makes.

    `gesture` is `none` for a hand that makes none of the known ones, and null where there is nothing to compare with.
    Landmarks (21, 3) are fractions of the prepared image.
    """
    for side, rows in found.items():
        for one, of_image in zip(sides[side].members, rows.hands(), strict=True):
            names = compare.named(of_image, judge) if not isinstance(judge, str) else [None] * len(of_image)
            yield {
                "side": side,
                "image": one.name,
                "hands": [
                    {
                        "gesture": name,
                        "confidence": round(hand.score, 5),
                        "left_hand": hand.left_hand,
                        "landmarks": [[round(float(value), 5) for value in point] for point in hand.landmarks],
                    }
                    for name, hand in zip(names, of_image, strict=True)
                ],
            }


def table(material: Material, draws: Draws, judge: metrics.GestureJudge | str, gesture: str | None) -> dict[str, Any]:
    """Return every metric in its variants."""
    get, seed = material.get, 0
    mean_draws = Draws.make(draws.real.shape[1], draws.fake.shape[1], intervals.MEAN_DRAWS, seed + 2)

    def accuracy(sides: Sides) -> Entry:
        return (
            not_computed(judge)
            if isinstance(judge, str)
            else compare.gesture_accuracy(sides, judge, str(gesture), mean_draws)
        )

    cosines = material.cosines
    found: dict[str, Any] = {
        "FID": {"standard": get("fid", lambda s: compare.frechet(s, draws, "images", seed))},
        "KID": {"standard": get("fid", lambda s: compare.kernel(s, draws, "images", biased=False))},
        "FID-H": {"standard": get("fid-h", lambda s: compare.frechet(s, draws, "hands", seed))},
        "KID-H": {"standard": get("fid-h", lambda s: compare.kernel(s, draws, "hands", biased=False))},
        "HAND-CONF": {"standard": get("hands", lambda s: compare.hand_confidence(s, mean_draws))},
        "hand-found rate": {"standard": get("hands", lambda s: compare.found_rate(s, mean_draws))},
        "gesture accuracy": {"standard": get("hands", accuracy)},
        "landmark distance": {"standard": get("hands", lambda s: compare.landmark_distance(s, draws, seed))},
        "CLIP score": {
            "standard": not_computed(cosines) if isinstance(cosines, str) else compare.clip_score(cosines, mean_draws)
        },
    }
    if material.reference:
        reference = {
            "FID": get("fid reference", lambda s: compare.frechet(s, draws, "images", seed)),
            "KID": get("fid reference", lambda s: compare.kernel(s, draws, "images", biased=True)),
            "FID-H": get("fid-h reference", lambda s: compare.frechet(s, draws, "images with hands", seed)),
            "KID-H": get("kid-h reference", lambda s: compare.kernel(s, draws, "hands", biased=True)),
            "HAND-CONF": get("hands reference", lambda s: compare.hand_confidence(s, mean_draws)),
            "hand-found rate": get("hands reference", lambda s: compare.found_rate(s, mean_draws)),
        }
        for name, entry in reference.items():
            found[name]["reference"] = entry
    return found


def text_table(result: dict[str, Any]) -> str:
    """Return the metrics as lines for a terminal."""
    lines = [f"{'':<19}{'variant':<11}{'real':>8}{'generated':>32}{'base':>32}{'difference':>32}   n real, generated"]
    for name, variants in result["metrics"].items():
        for variant, entry in variants.items():
            head = f"{name:<19}{variant:<11}"
            if "not_computed" in entry:
                lines.append(f"{head}not computed: {entry['not_computed']}")
                continue
            cells = "".join(f"{_cell(entry.get(side)):>32}" for side in ("fake", "base", "difference"))
            real = f"{entry['real']['value']:.4g}" if entry.get("real") else "-"
            counts = ", ".join(f"{entry['n'].get(side, 0)}" for side in ("real", "fake"))
            lines.append(f"{head}{real:>8}{cells}   {counts} {entry['unit']}")
    for side in ("real", "fake", "base"):
        for reason, names in result.get(side, {}).get("excluded", {}).items():
            lines.append(
                f"{side}: {len(names)} left out: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            )
        if result.get(side, {}).get("black"):
            lines.append(f"{side}: {result[side]['black']} images are black")
    return "\n".join(lines)


def _cell(one: Entry | None) -> str:
    if one is None:
        return "-"
    interval = "" if one["low"] is None else f" [{one['low']:.4g}, {one['high']:.4g}]"
    return f"{one['value']:.4g}{interval}"


def _sides(job: Job, gesture: str | None) -> dict[str, ImageSet]:
    """Return real, generated and, where there is one, base images. A generated set has one size."""
    dataset = split_of(job.real, "--real")
    if dataset and gesture is None:
        raise UserError(f"--real {job.real} needs --gesture: the generated images do not say theirs")
    fake = folder_set(job.fake, "--fake")
    if job.options.prepare == "auto":
        fake = one_size(fake)
    sides = {"fake": fake}
    if job.base:
        sides["fake"], sides["base"] = partners(fake, folder_set(job.base, "--base"))
    if dataset:
        place, split = dataset
        real = dataset_set(load(place, str(gesture), split, option="--real"), split, "--real")
    else:
        real = folder_set(Path(job.real), "--real")
    return {"real": real, **sides}


def _preparation(options: EvaluateOptions, settings: dict[str, Any], sides: dict[str, ImageSet]) -> Preparation:
    if options.prepare == "none":
        return Preparation(0, "center")
    crop = settings.get("crop", "center") if options.crop == "auto" else options.crop
    if crop == "hand" and not any(one.box for one in sides["real"].members):
        raise UserError(
            f"--real {sides['real'].source} has no boxes for the hand crop: say --crop center, or name a dataset"
        )
    first = sides["fake"].members[0]
    return Preparation(min(first.width, first.height), crop)


def _judge(job: Job, gesture: str | None, material: Material) -> metrics.GestureJudge | str:
    """Return what tells gestures apart, learnt from a dataset's training hands; or why there is none."""
    dataset = split_of(job.real, "--real")
    place = parse(job.landmarks, "--landmarks") if job.landmarks else dataset[0] if dataset else None
    if place is None:
        return "no training hands to compare with: name a dataset with --landmarks"
    if gesture is None:
        return "which gesture was asked for is not known: say --gesture"
    if "hands" not in material.rows:
        return material.lacking["hands"]
    option = "--landmarks" if job.landmarks else "--real"
    return gesture_judge(known_hands(place, material.prepare, material.cache, option), gesture)


def _about(images: ImageSet) -> dict[str, Any]:
    return {
        "source": images.source,
        "images": len(images.members),
        "sha256": images.fingerprint(),
        "excluded": images.excluded,
        "black": sum(one.black for one in images.members),
    }


def _hand_rules() -> dict[str, Any]:
    return {
        "most_hands": hands.MOST_HANDS,
        "searched_px": hands.SEARCHED,
        "detection": {"standard": hands.DETECTION, "reference": hands.DETECTION_REFERENCE, "crops": hands.DETECTION},
        "presence": hands.PRESENCE,
        "crop": {
            "FID-H standard": hands.STANDARD_CROP,
            "KID-H standard": hands.STANDARD_CROP,
            "FID-H reference": hands.UNION_CROP,
            "KID-H reference": hands.HAND_CROP,
        },
    }
