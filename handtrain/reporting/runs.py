"""Run folders as a report reads them, and sweeps: evaluations that differ in lam or mu."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.readers import read_json
from handtrain.evaluation.records import read_evaluation
from handtrain.run.folder import Run
from handtrain.seals import intact

Evaluation = dict[str, Any]  # the record of an evaluation, see docs/evaluation.md


@dataclass(frozen=True)
class RunRecord:
    """The files of a run folder that a report shows."""

    folder: Path
    record: dict[str, Any]  # run.json
    log: list[dict[str, Any]]
    evaluations: list[Evaluation]

    @property
    def gesture(self) -> str:
        """The gesture that the run was trained on."""
        return str(self.record.get("config", {}).get("gesture", ""))

    @property
    def options(self) -> dict[str, Any]:
        """The options of the training."""
        options: dict[str, Any] = self.record.get("config", {}).get("options", {})
        return options


Points = list[tuple[float, Evaluation]]  # by value of lam or mu


def read_run(folder: Path) -> RunRecord:
    """Read a run folder: run.json, log.jsonl and evaluation*.json. Raises `UserError` for another folder."""
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} is not a run folder (no run.json): name a folder of `handtrain train`")
    record, run = read_json(folder / "run.json"), Run(folder)
    if record is None or not intact(record) or not _is_record(record):
        raise UserError(f"{folder / 'run.json'} is damaged: run the same `handtrain train` again, which writes it")
    return RunRecord(
        folder, record, run.log, [read_evaluation(file) for file in sorted(folder.glob("evaluation*.json"))]
    )


def _is_record(record: dict[str, Any]) -> bool:
    config = record.get("config", {})
    return (
        isinstance(config, dict)
        and isinstance(config.get("options", {}), dict)
        and isinstance(config.get("gesture", ""), str)
        and isinstance(record.get("finished", ""), str)
    )


def sweeps(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str, Points]]:
    """Yield (name, gesture, points) for lam and mu of each gesture if its evaluations differ in the value."""
    for gesture in dict.fromkeys(run.gesture for run in runs):
        evaluations = [evaluation for run in runs if run.gesture == gesture for evaluation in run.evaluations]
        for name in ("lam", "mu"):
            values = [evaluation.get("settings", {}).get("fake", {}).get(name) for evaluation in evaluations]
            points = [(float(x), each) for x, each in zip(values, evaluations, strict=True) if x is not None]
            points.sort(key=lambda point: point[0])
            if len({value for value, _ in points}) > 1:
                yield name, gesture, points
