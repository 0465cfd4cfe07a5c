"""The inputs of a run, opened and checked before it starts, and their description in run.json and hand1000.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.gestures import require_one
from handdata.huggingface import HubName, Place, parse_dataset, parse_model
from handdata.limits.numbers import require_ranges
from handdata.machine import choose_device
from handdata.readers import read_json
from handdata.shipped import versions
from handtrain.data.dataset import Photographs, load, readme, require_gesture
from handtrain.method.fusion import TokenFusion
from handtrain.method.gesture import GestureFeature
from handtrain.model.base import Base, open_base, report_left_out
from handtrain.model.export import fusion_record
from handtrain.options import changed
from handtrain.presets import RunOptions, TrainOptions, check, options_of
from handtrain.run.cost import Plan, plan
from handtrain.run.device import resolved
from handtrain.run.processes import launched, own_device
from handtrain.training.early_stopping import check_judging


@dataclass(frozen=True)
class Setup:
    """The checked inputs of a run."""

    gesture: str
    preset: str  # for the record
    options: TrainOptions  # resolved for the device
    running: RunOptions
    device: torch.device
    base: Base  # with the run's resolution
    base_place: Place
    photographs: Photographs  # of the split `train`
    plan: Plan
    requested: dict[str, str]  # dataset and base as they were requested: a branch may stand for another commit later

    def config(self) -> dict[str, Any]:
        """Return the part of run.json that determines the weights."""
        dataset = self.photographs.place  # with its commit
        rows, fingerprint = len(self.photographs.rows), self.photographs.fingerprint()
        base = {"fingerprint": self.base.fingerprint(), "rest": self.base.rest_fingerprint()}
        return {
            "gesture": self.gesture,
            "options": asdict(self.options),
            "dataset": {**_place(dataset, dataset), "rows": rows, "fingerprint": fingerprint},
            "base": {**_place(self.base_place, self.base.commit), **base},
        }

    def session(self, processes: int) -> dict[str, Any]:
        """Return the entry of run.json that describes this process."""
        return {
            "preset": self.preset,
            "requested": self.requested,
            "running": asdict(self.running),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": processes,
            **_versions(),
        }

    def about(
        self, config: dict[str, Any], feature: GestureFeature, layer: TokenFusion | None, kept: int | None
    ) -> dict[str, Any]:
        """Return the content of hand1000.json; `kept` is the step of the best weights, if they are the model's."""
        rows, card = self.photographs.rows, readme(self.photographs.place)
        training = {
            **config,
            "preset": self.preset,
            "images": len(rows),
            "without_hand": feature.without_hand,
            "llama3": "llama 3" in card.lower().replace("-", " ") and any(row.rewrite == "llm" for row in rows),
            "versions": _versions(),
        }
        if kept is not None:
            training["kept"] = {"step": kept, "by": self.options.best_by}
        return {
            "gesture": self.gesture,
            "gesture_phrase": rows[0].phrase,
            "feature": {"kind": feature.kind, "values": feature.values},
            "lam": self.options.lam,
            "crop": self.options.crop,
            "resolution": self.base.resolution,
            "seed": self.options.seed,
            "training": training,
            "fusion": fusion_record(self.base, self.options.seed, layer),
        }


def set_up(
    dataset: Place | str, gesture: str, base: Place | str, preset: str, options: TrainOptions | None,
    running: RunOptions | None, device: str, changes: Mapping[str, Any], out: Path | None = None,
) -> Setup:  # fmt: skip
    """Check the arguments of `train`, choose the device, and open the base and the dataset.

    Repositories of the Hub have the commits that a run in `out` recorded.
    """
    options, running = changed(changes, options or options_of(preset), running or RunOptions())
    require_one(gesture, "--gesture")
    check(options)
    require_ranges(running)
    check_judging(options)
    processes = launched()
    if options.order == "images" and processes.count > 1:
        raise UserError("--order images trains on one image after the other: start a single process")
    place, base_place = parse_dataset(str(dataset), "--dataset"), parse_model(str(base), "--base")
    requested = {"dataset": str(place), "base": str(base_place)}
    place, base_place = (
        _as_recorded(at, part, requested[part], out) for part, at in (("dataset", place), ("base", base_place))
    )
    chosen = choose_device(own_device(device, processes))
    options = resolved(options, running, chosen)
    require_gesture(place, gesture)  # before a base of gigabytes is fetched
    opened = open_base(base_place)
    if processes.first:
        report_left_out(opened, running.safety_checker)
    opened = replace(opened, resolution=opened.check_resolution(options.resolution))
    photographs = load(place, gesture, limit=options.limit)
    photographs.check_images()
    planned = plan(gesture, photographs, opened, options)
    return Setup(gesture, preset, options, running, chosen, opened, base_place, photographs, planned, requested)


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
