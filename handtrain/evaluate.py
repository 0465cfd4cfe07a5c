"""Drive an evaluation: look through the images, run the networks over them, print the table, write the JSON."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from handdata import assets
from handdata.errors import UserError
from handtrain import compare, features, hands, intervals, metrics
from handtrain.compare import Draws, Entry, Sides, not_computed
from handtrain.data import load
from handtrain.encode import TensorCache
from handtrain.features import Network
from handtrain.gesture import normalised
from handtrain.imagesets import ImageSet, Preparation, dataset_set, folder_set, one_size, partners
from handtrain.models import choose_device
from handtrain.places import HubName, Place, parse, require_folder, resolve
from handtrain.runfolder import write_text

GENERATION_SETTINGS = "generation.json"  # what `handtrain generate` writes: the settings that all its images share


@dataclass(frozen=True)
class EvaluateOptions:
    """What decides the numbers of an evaluation."""

    prepare: Literal["auto", "none"] = (
        "auto"  # bring both sides to the generated size and crop, or leave images as they are
    )
    crop: Literal["auto", "center", "hand"] = (
        "auto"  # of real images; auto: what the model was trained with, else center
    )
    variants: Literal["both", "standard"] = "both"  # standard leaves out the released code's ways, half of the time
    bootstrap: int = 100  # draws behind the intervals of distances
    clip: str = "hf:openai/clip-vit-base-patch32"  # model of the CLIP score: hf:USER/NAME, a folder, or none
    inception_fid: Path | None = None  # other weights than the verified ones (`handdata assets inception-fid`)
    inception_torchvision: Path | None = None  # likewise (`handdata assets inception-torchvision`)
    seed: int = 0  # of the draws


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
    device: str = "auto"
    cache: Path | None = None


def evaluate(job: Job) -> int:
    """Evaluate, print the table on stdout, write the JSON, and return the exit code."""
    result = evaluation(job)
    print(text_table(result))
    if job.json:
        job.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(job.json, json.dumps(result, indent=1) + "\n")
    return 0


def evaluation(job: Job) -> dict[str, Any]:
    """Return all metrics with what they were computed from and how; see docs/evaluation.md for its keys.

    Raises `UserError` for a mistake. What lacks its weights is `not_computed`, with the reason.
    """
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
    judge = _judge(job, sides["real"], gesture)
    return {
        "format": 1,
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


class Material:
    """What the networks made of every side, one extraction after the other; each is its rows or the reason it lacks."""

    def __init__(
        self,
        options: EvaluateOptions,
        sides: dict[str, ImageSet],
        prepare: Preparation,
        cache: TensorCache,
        device: torch.device,
    ) -> None:
        self.sides, self.prepare, self.cache = sides, prepare, cache
        self.weights: dict[str, str] = {}  # sha256 by file
        self.rows: dict[str, Sides] = {}
        self.lacking: dict[str, str] = {}  # the reason, by extraction
        self.reference = options.variants == "both"
        self._find_hands()
        self._inception_fid(options.inception_fid, device)
        if self.reference:
            self._inception_torchvision(options.inception_torchvision, device)
        self.cosines = self._clip(options.clip, device)

    def get(self, name: str, then: Callable[[Sides], Entry]) -> Entry:
        """Return what `then` makes of an extraction, or why there is none."""
        return then(self.rows[name]) if name in self.rows else not_computed(self.lacking[name])

    def _find_hands(self) -> None:
        wanted = {
            "hands": hands.DETECTION,
            **({"hands reference": hands.DETECTION_REFERENCE} if self.reference else {}),
        }
        if self._asset(hands.MODEL, None, [*wanted, "fid-h"]) is None:
            return
        for name, detection in wanted.items():
            with hands.hand_finder(detection) as finder:
                extract = features.found_hands(finder)
                found = f"detection {detection}, presence {hands.PRESENCE}, searched at {hands.SEARCHED} px"
                rule = f"{found}, model {self.weights[hands.MODEL]}"
                self._extract(name, self._alike(extract), features.HAND, rule)

    def _inception_fid(self, file: Path | None, device: torch.device) -> None:
        weights = self._asset("inception-fid", file, ["fid", "fid-h"])
        if weights is None:
            return
        network = features.inception_fid(weights, device)
        self._network("fid", network, self._alike(features.whole_images(network)), "whole")
        if "hands" in self.rows:
            found = self.rows["hands"]
            rule = f"{hands.STANDARD_CROP} {self.weights[hands.MODEL]}"
            make = {side: features.standard_hands(network, rows) for side, rows in found.items()}
            self._network("fid-h", network, make, rule)

    def _inception_torchvision(self, file: Path | None, device: torch.device) -> None:
        names = ["fid reference", "fid-h reference", "kid-h reference"]
        weights = self._asset("inception-torchvision", file, names)
        if weights is None:
            return
        network = features.inception_torchvision(weights, device)
        self._network("fid reference", network, self._alike(features.fitted_images(network)), "fitted")
        if self._asset(hands.MODEL, None, names[1:]) is None:
            return
        sha256 = self.weights[hands.MODEL]
        with hands.hand_finder(hands.DETECTION) as finder:
            union, each = features.union_hands(network, finder), features.reference_hands(network, finder)
            self._network(names[1], network, self._alike(union), f"{hands.UNION_CROP} {sha256}")
            self._network(names[2], network, self._alike(each), f"{hands.HAND_CROP} {sha256}")

    def _clip(self, model: str, device: torch.device) -> compare.Values | str:
        """Return the cosine (n,) of every image with its text, by side; or why there is none."""
        if model == "none":
            return "--clip none"
        texts = {side: [one.text for one in images.members] for side, images in self.sides.items()}
        if None in texts["fake"]:
            return "the generated images have no prompts (generation.jsonl)"
        try:
            clip = features.clip(model, device)
        except OSError as error:
            return f"--clip {model} cannot be loaded: {str(error).splitlines()[0]}"
        self.weights["clip"] = clip.images.sha256
        self._network("clip", clip.images, self._alike(features.whole_images(clip.images)), "whole")
        return {
            side: None if None in texts[side] else _cosines(self.rows["clip"][side].values, clip.texts(texts[side]))  # type: ignore[arg-type]
            for side in self.sides
        }

    def _alike(self, extract: features.Extract) -> dict[str, features.Extract]:
        return dict.fromkeys(self.sides, extract)

    def _network(self, name: str, network: Network, make: dict[str, features.Extract], rule: str) -> None:
        self._extract(name, make, network.width, f"{network.name} {network.sha256} {rule}")

    def _extract(self, name: str, make: dict[str, features.Extract], width: int, rule: str) -> None:
        self.rows[name] = {}
        for side, images in self.sides.items():
            cache = self.cache if side == "real" else None
            self.rows[name][side] = features.extract(images, self.prepare, make[side], width, f"{name}: {rule}", cache)

    def _asset(self, name: str, file: Path | None, wanted_by: list[str]) -> Path | None:
        """Return a model file and note its sha256; note the reason for those who want it if it is not here."""
        try:
            path = file or assets.path(name)
            if not path.is_file():
                raise UserError(f"--{name} {path} is not a file: name the weights")
        except UserError as error:
            if file:
                raise
            self.lacking.update(dict.fromkeys(wanted_by, str(error)))
            return None
        self.weights[name] = features.sha256_of(path)
        return path


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
    lines = [f"{'':<18}{'variant':<11}{'generated':>26}{'base':>26}{'difference':>26}   n real, generated"]
    for name, variants in result["metrics"].items():
        for variant, entry in variants.items():
            head = f"{name:<18}{variant:<11}"
            if "not_computed" in entry:
                lines.append(f"{head}not computed: {entry['not_computed']}")
                continue
            cells = "".join(f"{_cell(entry.get(side)):>26}" for side in ("fake", "base", "difference"))
            counts = ", ".join(f"{entry['n'].get(side, 0)}" for side in ("real", "fake"))
            lines.append(f"{head}{cells}   {counts} {entry['unit']}")
    for side in ("real", "fake", "base"):
        for reason, names in result.get(side, {}).get("excluded", {}).items():
            lines.append(
                f"{side}: {len(names)} left out: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            )
        if result.get(side, {}).get("black"):
            lines.append(f"{side}: {result[side]['black']} images are black")
    return "\n".join(lines)


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return what `handtrain generate` wrote of the settings of a folder's images; empty if others made them."""
    file = folder / GENERATION_SETTINGS
    if not file.is_file():
        return {}
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return settings


def split_of(text: str) -> tuple[Place, str] | None:
    """Return dataset and split of DATASET:SPLIT, None where the text is no such thing."""
    place, colon, split = text.rpartition(":")
    if not colon or place in ("", "hf") or "/" in split:
        return None
    return parse(place, "--real"), split


def _cell(one: Entry | None) -> str:
    if one is None:
        return "-"
    interval = "" if one["low"] is None else f" [{one['low']:.4g}, {one['high']:.4g}]"
    return f"{one['value']:.4g}{interval}"


def _sides(job: Job, gesture: str | None) -> dict[str, ImageSet]:
    """Return real, generated and, where there is one, base images. A generated set has one size."""
    dataset = split_of(job.real)
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


def _judge(job: Job, real: ImageSet, gesture: str | None) -> metrics.GestureJudge | str:
    """Return what tells gestures apart, learnt from a dataset's training hands; or why there is none."""
    dataset = split_of(job.real)
    place = parse(job.landmarks, "--landmarks") if job.landmarks else dataset[0] if dataset else None
    if place is None:
        return "no training hands to compare with: name a dataset with --landmarks"
    if gesture is None:
        return "which gesture was asked for is not known: say --gesture"
    points, names = [], []
    for name, rows in _training_hands(place):
        found = [normalised(row).ravel() for row in rows if row.landmarks is not None]
        points += found
        names += [name] * len(found)
    if gesture not in names or len(points) <= metrics.NEIGHBOURS:
        return f"{place} holds no training hands of {gesture}, or fewer hands than neighbours are asked for"
    return metrics.GestureJudge.fit(np.array(points), np.array(names))


def _training_hands(place: Place) -> list[tuple[str, Any]]:
    from datasets import get_dataset_config_names

    if isinstance(place, HubName):
        place = resolve(place, "dataset", "--landmarks")
        names = get_dataset_config_names(place.repo, revision=place.revision)
    else:
        names = get_dataset_config_names(str(require_folder(place, "--landmarks")))
    return [(name, load(place, name, "train", option="--landmarks").rows) for name in names if name != "all"]


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


def _cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    return np.asarray((images * texts).sum(axis=1) / lengths)
