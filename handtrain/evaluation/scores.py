"""The result of an evaluation: a value with its interval for every metric, and the record that the JSON file holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.files import write_json

Record = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, which is None if there are too few images or hands."""

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, entry: Record | None) -> "Estimate | None":
        """Return the estimate in an entry of the record, None for a missing entry."""
        if entry is None:
            return None
        return cls(entry["value"], None if entry["low"] is None else (entry["low"], entry["high"]))

    def __format__(self, spec: str) -> str:
        value = format(self.value, spec or ".4g")
        return f"{value} [{self.interval[0]:.4g}, {self.interval[1]:.4g}]" if self.interval else value

    def __str__(self) -> str:
        return format(self)


@dataclass(frozen=True)
class Score:
    """A metric of the generated images. `reason` is the reason why it has no value."""

    name: str
    variant: str
    value: float | None
    interval: tuple[float, float] | None  # 95 %
    n: int  # generated images or hands that the value was computed from
    unit: str  # of n: images or hands
    real: Estimate | None  # of the real images, unless the metric is a distance
    base: Estimate | None  # of the images of the base model
    difference: Estimate | None  # value minus base
    reason: str | None

    @classmethod
    def of(cls, name: str, variant: str, entry: Record) -> "Score":
        """Return the score in an entry of the record."""
        fake = Estimate.of(entry.get("fake"))
        return cls(
            name,
            variant,
            value=fake.value if fake else None,
            interval=fake.interval if fake else None,
            n=entry.get("n", {}).get("fake", 0),
            unit=entry.get("unit", ""),
            real=Estimate.of(entry.get("real")),
            base=Estimate.of(entry.get("base")),
            difference=Estimate.of(entry.get("difference")),
            reason=None if fake else entry.get("not_computed", "no hand was found in the generated images"),
        )

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: not computed: {self.reason}"
        return f"{self.name}: {Estimate(self.value, self.interval)}, n {self.n} {self.unit}"


class Scores(Mapping[str | tuple[str, str], Score]):
    """Scores by the name of the metric, in the standard variant; `scores["FID", "reference"]` is another one.

    `str(scores)` is the table that `handtrain evaluate` prints.
    """

    def __init__(self, record: Record) -> None:
        self.record = record  # docs/evaluation.md describes its keys

    def __getitem__(self, key: str | tuple[str, str]) -> Score:
        name, variant = (key, "standard") if isinstance(key, str) else key
        return Score.of(name, variant, self.record["metrics"][name][variant])

    def __iter__(self) -> Iterator[str]:
        return iter(self.record["metrics"])

    def __len__(self) -> int:
        return len(self.record["metrics"])

    def write(self, path: Path | str) -> None:
        """Write the record as JSON; the file is whole or absent."""
        write_json(Path(path), self.record)

    def _sizes(self, side: str) -> int:
        """Return the number of sizes among the images of a side; 0 in records of earlier versions."""
        return int(self.record.get(side, {}).get("sizes", 0))

    def __str__(self) -> str:
        columns = "".join(f"{side:>32}" for side in ("generated", "base", "difference"))
        lines = [f"{'':<26}{'variant':<11}{'real':>8}{columns}   n real, generated"]
        for name, variant, entry in computed_first(self.record["metrics"]):
            lines.append(f"{name:<26}{variant:<11}{_cells(entry)}")
        for side in ("real", "fake", "base"):
            lines += [f"{side}: {remark}" for remark in _remarks(self.record.get(side, {}))]
            if side != "real" and self._sizes(side) > 1:
                lines.append(f"{side}: images of {self._sizes(side)} sizes")
        return "\n".join(lines)


def computed_first(metrics: Record) -> list[tuple[str, str, Record]]:
    """Return name, variant and entry of all metrics in their order, those that were not computed after the others."""
    rows = [(name, variant, entry) for name, variants in metrics.items() for variant, entry in variants.items()]
    return sorted(rows, key=lambda row: "not_computed" in row[2])


def _cells(entry: Record) -> str:
    if "not_computed" in entry:
        return f"not computed: {entry['not_computed']}"
    real = f"{entry['real']['value']:.4g}" if entry.get("real") else "-"
    sides = [str(Estimate.of(entry.get(side)) or "-") for side in ("fake", "base", "difference")]
    counts = ", ".join(str(entry["n"].get(side, 0)) for side in ("real", "fake"))
    return f"{real:>8}{''.join(f' {side:>31}' for side in sides)}   {counts} {entry['unit']}"


def _remarks(images: Record) -> Iterator[str]:
    for reason, names in images.get("excluded", {}).items():
        yield f"{len(names)} left out: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    if images.get("black"):
        yield f"{images['black']} images are black"
    if images.get("one_colour"):
        yield f"{images['one_colour']} images are of one colour"
