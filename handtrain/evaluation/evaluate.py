"""Evaluate generated images against real ones: read both, extract features and hands, compute the table of metrics."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from handdata import assets
from handdata.errors import UserError
from handdata.files import write_jsonl
from handdata.huggingface import parse_dataset
from handdata.shipped import versions
from handtrain.data.dataset import load
from handtrain.data.image_folder import images_of, read_settings, split_of
from handtrain.evaluation import hands, metrics, table
from handtrain.evaluation.bootstrap import MEAN_DRAWS, Draws
from handtrain.evaluation.extraction import Models
from handtrain.evaluation.features import Rows, extract
from handtrain.evaluation.gesture_judge import gesture_judge, known_hands, named
from handtrain.evaluation.image_sets import ImageSet, Preparation, dataset_set, folder_set, partners
from handtrain.evaluation.scores import Scores
from handtrain.evaluation.side_effects import Further, pose_entry
from handtrain.options import EvaluateOptions, changed, recorded
from handtrain.tensor_cache import TensorCache

FORMAT = 2  # version of the JSON; in version 1 the judge of gestures knew the dataset's own landmarks


def evaluate(
    *,
    real: str | Path,
    fake: str | Path,
    base: str | Path | None = None,
    gesture: str | None = None,
    landmarks: str | Path | None = None,
    free: str | Path | None = None,
    free_base: str | Path | None = None,
    others: Sequence[str | Path] = (),
    device: str = "auto",
    cache: str | Path | None = None,
    details: str | Path | None = None,
    options: EvaluateOptions | None = None,
    **changes: Any,
) -> Scores:
    """Evaluate generated images against real ones, and against those of the base model from the same prompts and seeds.

    `real` is a folder of images or DATASET:SPLIT, `landmarks` a dataset whose training hands tell gestures apart (by
    default that of `real`), `free`, `free_base` and `others` further images for `side_effects`, `cache` a folder for
    features of real images, `details` a JSON Lines file to write with all hands and gestures. `changes` are fields
    of the options. Raises `UserError` for a mistake; a metric without its weights or input has a reason for a value.
    """
    (options,) = changed(changes, options or EvaluateOptions())
    fake, base = images_of(fake, "--fake", "tuned"), images_of(base, "--base", "base") if base else None
    settings = read_settings(fake)
    gesture = gesture or settings.get("gesture")
    sides = _sides(str(real), fake, base, gesture)
    further = Further.open(free, free_base, others)
    prepare = _preparation(options, settings, sides)
    kept = TensorCache(Path(cache) if cache else assets.cache_folder() / "features")
    with Models(options, device, sides) as models:
        print(f"handtrain: evaluating on {models.device}", file=sys.stderr)
        for name in table.extractions_of(options.variants):
            found = models.extractor(name)
            # the same real images are evaluated again and again, generated ones once
            models.rows[name] = found if isinstance(found, str) else {
                side: extract(each, prepare, found, kept if side == "real" else None) for side, each in sides.items()
            }  # fmt: skip
        further_rows = _further_rows(further, models, prepare)
    judge = _judge(str(real), landmarks, gesture, models, prepare, kept)
    if details:
        write_jsonl(Path(details), _details(models, judge))
    added = _side_effects(models, fake, further, further_rows, prepare, gesture, judge)
    return Scores(_record(models, prepare, gesture, judge, added))


def _side_effects(
    models: Models, fake: Path, further: Further, rows: dict[str, Rows] | str, prepare: Preparation,
    gesture: str | None, judge: metrics.GestureJudge | str,
) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of the poses and of the further sets."""
    of_hands = models.rows["hands"]
    entries = pose_entry(fake, models.images["fake"], of_hands if isinstance(of_hands, str) else of_hands["fake"])
    entries |= further.entries(rows, prepare, gesture, judge)
    return {name: {"standard": entry} for name, entry in entries.items()}


def _further_rows(further: Further, models: Models, prepare: Preparation) -> dict[str, Rows] | str:
    """Return the hands of the further sets, or the reason why they cannot be found."""
    extractor = models.extractor("hands")
    if isinstance(extractor, str):
        return extractor
    return {name: extract(images, prepare, extractor, None) for name, images in further.sets().items()}


def _record(
    models: Models, prepare: Preparation, gesture: str | None, judge: metrics.GestureJudge | str, added: dict[str, Any]
) -> dict[str, Any]:
    """Return all metrics, the inputs and how they were processed; docs/evaluation.md describes the keys."""
    sides, options = models.images, models.options
    real, fake, seed = len(sides["real"].members), len(sides["fake"].members), options.seed
    draws, mean_draws = (
        Draws.make(real, fake, count, first) for count, first in ((options.bootstrap, seed), (MEAN_DRAWS, seed + 2))
    )
    comparison = table.Comparison(draws, mean_draws, seed, gesture, judge)
    return {
        "format": FORMAT,
        "gesture": gesture,
        **{side: _about(images) for side, images in sides.items()},
        "settings": {side: read_settings(Path(sides[side].source)) for side in sides if side != "real"},
        "preparation": str(prepare),
        "metrics": {**table.compute(models.rows, comparison, options.variants), **added},
        "hands": _hand_rules(),
        "weights": models.weights,
        "options": recorded(options),
        "versions": versions("torch", "torchvision", "torch-fidelity", "mediapipe"),
    }


def _details(models: Models, judge: metrics.GestureJudge | str) -> Iterator[dict[str, Any]]:
    """Yield the detected hands of every image of every side, each with its gesture.

    `gesture` is `none` for a hand that makes an unknown gesture, and null without a judge. Landmarks (21, 3) are
    fractions of the prepared image.
    """
    extracted = models.rows["hands"]
    for side, rows in ({} if isinstance(extracted, str) else extracted).items():
        for member, of_image in zip(models.images[side].members, rows.hands(), strict=True):
            names = [None] * len(of_image) if isinstance(judge, str) else named(of_image, judge)
            yield {
                "side": side,
                "image": member.name,
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


def _sides(real: str, fake_folder: Path, base: str | Path | None, gesture: str | None) -> dict[str, ImageSet]:
    """Return the real, generated and, if given, base images; the last two with the same names."""
    dataset = split_of(real, "--real")
    if dataset and gesture is None:
        raise UserError(f"--real {real} needs --gesture: the generated images do not name theirs")
    fake = folder_set(fake_folder, "--fake")
    sides = {"fake": fake}
    if base:
        sides["fake"], sides["base"] = partners(fake, folder_set(Path(base), "--base"))
    if dataset:
        place, split = dataset
        return {"real": dataset_set(load(place, str(gesture), split, option="--real"), split, "--real"), **sides}
    return {"real": folder_set(images_of(real, "--real"), "--real"), **sides}


def _preparation(options: EvaluateOptions, settings: dict[str, Any], sides: dict[str, ImageSet]) -> Preparation:
    if options.prepare == "none":
        return Preparation(0, "center")
    crop = settings.get("crop", "center") if options.crop == "auto" else options.crop
    if crop == "hand" and not any(member.box for member in sides["real"].members):
        raise UserError(
            f"--real {sides['real'].source} has no boxes for the hand crop: use --crop center, or name a dataset"
        )
    # Generated images have one size as a rule; of several, the median is neither a thumbnail's nor a poster's.
    return Preparation(median_low(min(member.width, member.height) for member in sides["fake"].members), crop)


def _judge(
    real: str,
    landmarks: str | Path | None,
    gesture: str | None,
    models: Models,
    prepare: Preparation,
    cache: TensorCache,
) -> metrics.GestureJudge | str:
    """Return a judge of gestures fitted to a dataset's training hands, or the reason why that is impossible."""
    dataset = split_of(real, "--real")
    place = parse_dataset(str(landmarks), "--landmarks") if landmarks else dataset[0] if dataset else None
    if place is None:
        return "no training hands to compare with: name a dataset with --landmarks"
    if gesture is None:
        return "the gesture of the images is not known: name it with --gesture"
    rows = models.rows["hands"]
    if isinstance(rows, str):
        return rows
    return gesture_judge(known_hands(place, prepare, cache, "--landmarks" if landmarks else "--real"), gesture)


def _about(images: ImageSet) -> dict[str, Any]:
    return {
        "source": images.source,
        "images": len(images.members),
        "sha256": images.fingerprint(),
        "excluded": images.excluded,
        "black": sum(member.black for member in images.members),
        "one_colour": sum(member.one_colour for member in images.members),
        "sizes": len({(member.width, member.height) for member in images.members}),
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
            "FD-DINOv2-H standard": hands.SQUARE,
            "CMMD-H standard": hands.SQUARE,
        },
    }
