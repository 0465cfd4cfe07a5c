"""Print the final comparison of `benchmarks.pose_method`: differences of trainings paired by seed, with t intervals.

    python -m benchmarks.pose_pairs [--results FOLDER]

For each gesture: gesture accuracy of the winner (poses from its bank) and of plain fine-tuning (words, at that scale of
guidance at which its mean is higher), sleeve and wall colours, and the share of images with the gesture when the prompt
names none. The interval is that of the mean difference over trainings (Student's t, 95 %).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.pose_method import RESULTS

Record = dict[str, Any]


def records(results: Path, variant: str, gesture: str) -> dict[int, Record]:
    """Return the finished rows of the stage `final` on one gesture, by seed."""
    read = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob(f"final-{variant}-*.json"))]
    return {record["seed"]: record for record in read if record["trained"] == [gesture]}


def value(record: Record, kind: str, name: str) -> float:
    """Return a mean over the images of a kind, weighted by their number; NaN without any."""
    chosen = [part for part in record["parts"] if part["kind"] == kind and part.get(name) is not None]
    return (
        float(np.average([part[name] for part in chosen], weights=[part["n"] for part in chosen])) if chosen else np.nan
    )


def unasked(record: Record, gesture: str) -> float:
    """Return the share of gesture-free images in which the gesture appears."""
    free = [part for part in record["parts"] if part["kind"] == "free"]
    return float(sum(part["gestures"].get(gesture, 0) for part in free) / sum(part["n"] for part in free))


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and the 95 % t interval; NaN bounds for fewer than two."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return float(values.mean()), np.nan, np.nan
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def lines_of(results: Path, gesture: str) -> list[str]:
    """Return the rows of a Markdown table about one gesture."""
    winner, plain = records(results, "winner", gesture), records(results, "plain", gesture)
    seeds = sorted(winner.keys() & plain.keys())
    if not seeds:
        return []
    means = {
        kind: np.mean([value(plain[seed], kind, "accuracy") for seed in seeds]) for kind in ("words", "words at 2")
    }
    kind = max(means, key=lambda name: means[name])
    of_plain = f"plain, guidance {2 if kind == 'words at 2' else 3}"
    columns = {
        "accuracy": [(value(winner[s], "own", "accuracy"), value(plain[s], kind, "accuracy")) for s in seeds],
        "sleeves": [(value(winner[s], "own", "sleeve"), value(plain[s], kind, "sleeve")) for s in seeds],
        "walls": [(value(winner[s], "own", "background"), value(plain[s], kind, "background")) for s in seeds],
        "without request": [(unasked(winner[s], gesture), unasked(plain[s], gesture)) for s in seeds],
    }
    for variant in ("no_pose", "no_map"):
        other = records(results, variant, gesture)
        both = sorted(winner.keys() & other.keys())
        if both:
            of_kind = "words" if variant == "no_pose" else "own"
            columns[f"accuracy, against {variant.replace('_', ' ')}"] = [
                (value(winner[s], "own", "accuracy"), value(other[s], of_kind, "accuracy")) for s in both
            ]
    return [
        _line(gesture, name, of_plain if name != "without request" else "plain", pairs)
        for name, pairs in columns.items()
    ]


def _line(gesture: str, name: str, other: str, pairs: Sequence[tuple[float, float]]) -> str:
    table = 100 * np.array(pairs)
    mean, low, high = interval((table[:, 0] - table[:, 1]).tolist())
    return (
        f"| {gesture} | {name} | {len(table)} | {table[:, 0].mean():.1f} % | {table[:, 1].mean():.1f} % ({other}) "
        f"| {mean:+.1f} [{low:+.1f}, {high:+.1f}] |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    results: Path = parser.parse_args().results
    lines = [line for gesture in ("ok", "call", "fist") for line in lines_of(results, gesture)]
    print("| gesture | what | trainings | plus | the other | difference |\n|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
