"""The mini benchmark's tables, from details as `handtrain evaluate` writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mini_table import distance_change, read, tables

IMAGES = 220


def hand(gesture: str, bend: float, rng: np.random.Generator) -> dict:
    points = np.linspace(0, 1, 21)[:, None] * (1.0, 0.2, 0.0) + rng.normal(0, 0.02 + bend, (21, 3))
    return {"gesture": gesture, "confidence": 0.9, "left_hand": False, "landmarks": points.tolist()}


def write_run(folder: Path, right: float, bend: float, seed: int, colour: float = 0.01) -> Path:
    """Write the evaluation of a run with a share of images with the gesture and a bend of its hands."""
    rng, lines = np.random.default_rng(seed), []
    shares = {"real": (0.9, 0.0), "base": (0.1, 0.3), "fake": (right, bend)}
    for side, (share, bent) in shares.items():
        steady = np.random.default_rng(1) if side != "fake" else rng  # every run sees the same real and base images
        for number in range(IMAGES):
            hands = [hand("call" if number < share * IMAGES else "none", bent, steady)]
            lines.append({"side": side, "image": f"{number}.png", "hands": hands if number % 11 else []})
    folder.mkdir(parents=True)
    (folder / "details.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    difference = {"value": colour, "low": colour - 0.02, "high": colour + 0.02}
    (folder / "colours.json").write_text(
        json.dumps({name: {"difference": difference} for name in ("sleeve", "background")})
    )
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> dict[tuple[str, str], list[Path]]:
    plain = [write_run(tmp_path / f"plain{n}", 0.3 + n / 10, 0.1, n, n / 50) for n in range(2)]
    better = [write_run(tmp_path / f"better{n}", 0.8, 0.0, 5 + n) for n in range(3)]
    return {("call", "plain"): plain, ("call", "better"): better}


def test_the_tables_have_means_over_trainings_and_every_training(runs: dict[tuple[str, str], list[Path]]) -> None:
    printed = "\n".join(tables(runs, "plain")).splitlines()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed]
    head, _, plain, better, _, second, _, against, _, drawn = lines
    assert head[:4] == ["gesture", "variant", "trainings", "gesture accuracy"]
    shares = {share: np.mean([number < share * IMAGES and number % 11 > 0 for number in range(IMAGES)])
              for share in (0.1, 0.3, 0.4, 0.8, 0.9)}  # fmt: skip
    mean = 100 * (shares[0.3] + shares[0.4]) / 2
    assert plain[:3] == ["call", "plain", "2"]
    assert plain[3].startswith(f"{100 * shares[0.1]:.1f} to {mean:.1f} % (+")
    assert better[4] == "90.9 to 90.9 % (+0.0 to +0.0)"  # both miss the same hands
    assert plain[6] == "+1.0 (-2.0 to +4.0)"  # the mean, and all that the two intervals span
    assert second[2] == "gesture accuracy against plain"
    change, each = against[2].split("; ")
    first = 100 * (shares[0.8] - shares[0.3])
    assert each == f"{first:+.1f}, {100 * (shares[0.8] - shares[0.4]):+.1f}"  # the trainings that both have
    low, high = (float(part) for part in change.split("(")[1].rstrip(")").split(" to "))
    assert low < 100 * shares[0.8] - mean < high
    assert f"{100 * shares[0.9]:.1f} %" in drawn[0]


def test_the_landmark_distance_falls_where_hands_are_straight(runs: dict[tuple[str, str], list[Path]]) -> None:
    plain, better = (read(folders[0] / "details.jsonl", "call") for folders in runs.values())
    change = distance_change([plain["fake"]], [better["fake"]], plain["real"])
    assert change.after < change.before
    assert change.low < change.after - change.before < change.high < 0
    assert change.each == (pytest.approx(change.after - change.before),)
    nothing = distance_change([plain["fake"]], [plain["fake"]], plain["real"])
    assert (nothing.low, nothing.high) == (0, 0)


def test_images_without_partners_are_not_compared(runs: dict[tuple[str, str], list[Path]]) -> None:
    file = runs["call", "plain"][1] / "details.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines() if '"3.png"' not in line))
    with pytest.raises(AssertionError, match="without partners"):
        list(tables(runs, "plain"))
