"""The inputs of a run, opened and checked before it starts, and their description in run.json and hand1000.json."""

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, parse_dataset, parse_model
from handdata.machine import choose_device
from handdata.readers import read_json
from handdata.shipped import versions
from handtrain.data.dataset import Photographs, gestures_of, load, readme, require_gesture, require_trainable
from handtrain.method.fusion import TokenFusion
from handtrain.method.gesture import NUMBERS, GestureFeature
from handtrain.method.poses import bank
from handtrain.model.base import Base, open_base, report_left_out
from handtrain.model.export import fusion_record
from handtrain.options import changed
from handtrain.presets import PRESETS, RunOptions, TrainOptions, check, check_running, options_of, routes
from handtrain.run.cost import Plan, plan
from handtrain.run.device import graphs, resolved
from handtrain.run.fit import LORA_RATE, resumed
from handtrain.run.memory import Memory
from handtrain.run.phases import Phases
from handtrain.run.processes import launched, own_device
from handtrain.training.early_stopping import check_judging


@dataclass(frozen=True)
class Setup:
    """The checked inputs of a run."""

    gestures: tuple[str, ...]
    preset: str  # for the record
    options: TrainOptions  # resolved for the device
    running: RunOptions  # the same
    device: torch.device
    base: Base  # with the run's resolution
    base_place: Place
    photographs: list[Photographs]  # of the split `train`, by gesture
    plan: Plan
    requested: dict[str, str]  # dataset and base as they were requested: a branch may stand for another commit later
    fit: dict[str, Any] | None  # the choice of --fit, for the record

    @property
    def gesture(self) -> str:
        """The names of the gestures as one text."""
        return ", ".join(self.gestures)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of rows of each gesture."""
        return tuple(len(each.rows) for each in self.photographs)

    def config(self, phases: Phases) -> dict[str, Any]:
        """Return the part of run.json that determines the weights."""
        dataset = self.photographs[0].place  # with its commit
        with phases.inside("hash"):
            rows, fingerprints = sum(self.counts), [each.fingerprint() for each in self.photographs]
            base = {"fingerprint": self.base.fingerprint(), "rest": self.base.rest_fingerprint()}
        fingerprint = fingerprints[0]
        if len(fingerprints) > 1:
            fingerprint = hashlib.sha256("".join(fingerprints).encode()).hexdigest()
        return {
            "gesture": self.gesture,
            "options": asdict(self.options),
            "dataset": {**_place(dataset, dataset), "rows": rows, "fingerprint": fingerprint},
            "base": {**_place(self.base_place, self.base.commit), **base},
        }

    def _require_same_base(self, config: dict[str, Any]) -> None:
        # Frozen weights in float32 are maps of the base's file until the export, other parts are read then
        now = {"fingerprint": self.base.fingerprint(), "rest": self.base.rest_fingerprint()}
        if any(config["base"][name] != value for name, value in now.items()):
            raise UserError(
                f"--base {self.requested['base']} has changed since the run began: put its files back, and start the "
                "same command again"
            )

    def session(self, processes: int) -> dict[str, Any]:
        """Return the entry of run.json that describes this process."""
        return {
            "preset": self.preset,
            "requested": self.requested,
            "running": asdict(self.running),
            **({"fit": self.fit} if self.fit else {}),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": processes,
            **_versions(),
        }

    def about(
        self, config: dict[str, Any], features: Sequence[GestureFeature], layer: TokenFusion | None, kept: int | None,
        poses: Sequence[torch.Tensor | None],
    ) -> dict[str, Any]:  # fmt: skip
        """Return the content of hand1000.json; `kept` is the step of the best weights, if they are the model's.

        `poses` (n, 64) are those of each gesture's images, None for a model without pose layers. Raises `UserError` if
        the base's files have changed since the run began.
        """
        self._require_same_base(config)
        rows, card = [row for each in self.photographs for row in each.rows], readme(self.photographs[0].place)
        training = {
            **config,
            "preset": self.preset,
            "images": len(rows),
            "without_hand": sum(feature.without_hand for feature in features),
            "llama3": "llama 3" in card.lower().replace("-", " ") and any(row.rewrite == "llm" for row in rows),
            "versions": _versions(),
        }
        if kept is not None:
            training["kept"] = {"step": kept, "by": self.options.best_by}
        several = len(self.gestures) > 1
        about = {
            "gesture": None if several else self.gesture,
            "gesture_phrase": None if several else rows[0].phrase,
            # with several gestures lam is 1, and no feature is mixed in
            "feature": {"kind": features[0].kind, "values": (0.0,) * NUMBERS if several else features[0].values},
            "lam": self.options.lam,
            "crop": self.options.crop,
            "resolution": self.base.resolution,
            "seed": self.options.seed,
            "training": training,
            "fusion": {"kind": "none"} if several else fusion_record(self.base, self.options.seed, layer),
        }
        if several or routes(self.options):
            about |= {"format": 2, "gestures": self._gestures(poses)}
        if routes(self.options):
            about["pose"] = {"routes": routes(self.options)}
        return about

    def _gestures(self, poses: Sequence[torch.Tensor | None]) -> dict[str, dict[str, Any]]:
        """Return each gesture's phrase and the bank of its own poses; stage1.json has the features."""
        table: dict[str, dict[str, Any]] = {}
        for name, each, of_rows in zip(self.gestures, self.photographs, poses, strict=True):
            table[name] = {"phrase": each.rows[0].phrase}
            if of_rows is not None:
                table[name]["poses"] = bank(of_rows.numpy(), len(self.gestures))
        return table


def set_up(
    dataset: Place | str, gesture: str | Sequence[str], base: Place | str, preset: str, options: TrainOptions | None,
    running: RunOptions | None, device: str, changes: Mapping[str, Any], out: Path | None = None,
    prediction_type: str | None = None, fit: str | None = None, given: Collection[str] = (),
) -> Setup:  # fmt: skip
    """Check the arguments of `train`, choose the device, and open the base and the dataset.

    Repositories of the Hub have the commits that a run in `out` recorded. `prediction_type` is for a base in one file
    that does not state it. `fit` is a card's memory, see `run.fit`; options in `given` stay as they are.
    """
    given = {*given, *changes, *_differing(preset, options, running)}
    options, running = changed(changes, options or options_of(preset), running or RunOptions())
    check(options)
    check_running(running, options)
    check_judging(options)
    names = _named(gesture, str(dataset))
    processes = launched()
    if options.order == "images" and processes.count > 1:
        raise UserError("--order images trains on one image after the other: start a single process")
    place, base_place = parse_dataset(str(dataset), "--dataset"), parse_model(str(base), "--base")
    requested = {"dataset": str(place), "base": str(base_place)}
    place, base_place = (
        _as_recorded(at, part, requested[part], out) for part, at in (("dataset", place), ("base", base_place))
    )
    chosen = choose_device(own_device(device, processes))
    options = resolved(options, running, chosen, processes.count)
    names = _gestures(place, names, options)  # before a base of gigabytes is fetched
    opened = open_base(base_place, prediction_type=prediction_type)
    options = _with_adapters(opened, options, given, processes.first)
    _require_supported(opened, options, running)
    if processes.first:
        report_left_out(opened, running.safety_checker)
    opened = replace(opened, resolution=opened.check_resolution(options.resolution))
    choice = None
    if fit:
        fitted = resumed(Memory(opened), options, running, fit, chosen, given, processes.count, out)
        options, running, choice = fitted.options, fitted.running, fitted.record(fit)
        if processes.first:
            print(f"handtrain: --fit {fit}: {fitted}", file=sys.stderr)
    running = replace(running, graphs=graphs(options, running, chosen, processes.count, fit, opened.backbone.FLOW))
    photographs = [load(place, name, limit=options.limit) for name in names]
    for each in photographs:
        each.check_images()
    planned = plan(", ".join(names), [row for each in photographs for row in each.rows], opened, options)
    return Setup(names, preset, options, running, chosen, opened, base_place, photographs, planned, requested, choice)


def _with_adapters(base: Base, options: TrainOptions, given: Collection[str], first: bool) -> TrainOptions:
    """Return the options with the adapters that are trained by default in a kind of model of billions of weights."""
    rank = base.backbone.RANK
    if not rank or options.lora_rank or "lora_rank" in given:
        return options
    rate = options.unet_lr if "unet_lr" in given else LORA_RATE
    if first:
        print(
            f"handtrain: training adapters of rank {rank} at a rate of {rate:g}, the default for a "
            f"{base.backbone.PIPELINE}; --lora-rank 0 trains all weights",
            file=sys.stderr,
        )
    return replace(options, lora_rank=rank, unet_lr=rate)


def _require_supported(base: Base, options: TrainOptions, running: RunOptions) -> None:
    """Raise `UserError` for options that this kind of base has no place for."""
    kind, fusions = base.backbone.PIPELINE, base.backbone.FUSIONS
    if options.lam < 1 and options.fusion not in fusions:
        numbers = base.sizes.tokens * base.sizes.width
        size = f"; its layer would have {(numbers + NUMBERS) * numbers / 1e9:,.1f} billion weights" \
            if options.fusion == "flat" else ""  # fmt: skip
        instead = f"--fusion {fusions[0]}, or --lam 1" if fusions else "--lam 1"
        raise UserError(f"--fusion {options.fusion} is not for a {kind}{size}: use {instead}")
    if routes(options) and not base.backbone.POSES:
        raise UserError(f"--pose is not for a {kind}, which has no place for the joints: use --pose none")
    if running.compile != "no" and base.backbone.FLOW:
        raise UserError(f"--compile is not for a {kind}, which has a graph for every length of a text: use no")
    if options.min_snr and base.backbone.FLOW:
        raise UserError(f"--min-snr is not for a {kind}: flow matching has no signal-to-noise weights; use --min-snr 0")


def stage1_record(gestures: Sequence[str], features: Sequence[GestureFeature]) -> dict[str, Any]:
    """Return the content of stage1.json: the gesture feature, of several gestures by name."""
    records = [asdict(feature) for feature in features]
    return records[0] if len(records) == 1 else {"gestures": dict(zip(gestures, records, strict=True))}


def _differing(preset: str, options: TrainOptions | None, running: RunOptions | None) -> set[str]:
    """Return the names of the options that differ from those of the preset, or from the defaults."""
    usual = options_of(preset) if options and preset in PRESETS else TrainOptions()
    pairs = [(options, usual), (running, RunOptions())]
    return {name for own, other in pairs if own for name, value in vars(own).items() if value != getattr(other, name)}


def _named(gesture: str | Sequence[str], dataset: str) -> tuple[str, ...]:
    """Return the names in an argument, each once, or `all` alone. For HaGRID's names no file is read."""
    names = (gesture,) if isinstance(gesture, str) else tuple(dict.fromkeys(gesture))
    require_trainable(dataset, names, "--gesture")
    return names


def _gestures(place: Place, names: tuple[str, ...], options: TrainOptions) -> tuple[str, ...]:
    """Return the gestures to train, all of which the dataset has; only its card is read.

    Raises `UserError` for several where the options are those of one gesture.
    """
    if names == ("all",):
        names = tuple(gestures_of(place))
    for name in names:
        require_gesture(place, name)
    if len(names) > 1 and options.lam < 1:
        raise UserError(
            f"--gesture {' '.join(names)}: the mean landmarks of several gestures are those of none; give --lam 1, "
            "which leaves the gesture feature out, or one gesture"
        )
    if len(names) > 1 and (options.order == "images" or options.evaluate_every):
        raise UserError("--order images and --evaluate-every know one gesture: name one, or leave them out")
    return names


def _as_recorded(place: Place, part: str, requested: str, out: Path | None) -> Place:
    """Return a repository at the commit that a run recorded for the same request, which then needs no look-up."""
    record: dict[str, Any] = read_json(out / "run.json") or {} if out and isinstance(place, HubName) else {}
    try:
        asked = any(session["requested"][part] == requested for session in record["sessions"] if "requested" in session)
        return replace(place, revision=record["config"][part]["revision"]) if asked else place  # type: ignore[type-var]
    except (KeyError, TypeError):  # a damaged record, which the run reports
        return place


def _place(place: Place, commit: Place | None) -> dict[str, str | None]:
    if isinstance(place, Path):  # by its last name only: a run folder may be published or moved
        return {"place": place.resolve().name, "revision": None}
    return {"place": f"hf:{place.repo}", "revision": commit.revision if isinstance(commit, HubName) else place.revision}


def _versions() -> dict[str, str | None]:
    return versions("torch", "diffusers", "transformers", "datasets")
