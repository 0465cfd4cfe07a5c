"""Whether bfloat16 trains as float32 does: losses and gesture accuracy of several seeds in both, on a mini model.

    python -m benchmarks.bf16_spread --dataset quickstart/dataset --out runs/bf16

Trainings of one seed see the same images, noise and times in the same order. The same command resumes; it prints a
Markdown table and writes it to OUT/table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from handdata.files import write_text
from handdata.markdown import markdown_table
from handdata.readers import require_json
from handtrain.evaluation.evaluate import evaluate
from handtrain.generation.generate import generate
from handtrain.training.train import train

PRECISIONS = ("fp32", "bf16", "bf16-autocast")
PARTS = 4  # of the training, each with its mean loss
METRIC = "gesture accuracy"


def losses(log: Path) -> np.ndarray:
    """Return the losses of Stage III (steps,) from a run's log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return np.array([line["loss"] for line in lines if line.get("stage") == 3 and "loss" in line])


def row(given: argparse.Namespace, precision: str, seed: int) -> list[float]:
    """Train and draw; return the mean loss of each part of the training, and the gesture accuracy."""
    folder = given.out / f"{precision}-{seed}"
    run = train(
        given.dataset, gesture=given.gesture, base=given.base, out=folder / "run", preset="mini", device=given.device,
        precision=precision, seed=seed, unet_epochs=given.epochs, sample_every=0, validate_every=0, tensorboard=False,
    )  # fmt: skip
    rows, file = f"{given.dataset}:test", folder / "evaluation.json"
    generate(
        run.model, out=folder / "images", prompts=rows, gesture=given.gesture, seeds=range(given.pictures), steps=20,
        batch=25, device=given.device, precision="fp32",
    )  # fmt: skip
    if not file.is_file():
        evaluate(
            real=rows, fake=folder / "images", gesture=given.gesture, landmarks=given.dataset, clip="none",
            variants="standard", device=given.device,
        ).write(file)  # fmt: skip
    accuracy = require_json(file)["metrics"][METRIC]["standard"]["fake"]["value"]
    return [*(float(part.mean()) for part in np.array_split(losses(run.path / "log.jsonl"), PARTS)), float(accuracy)]


def table(given: argparse.Namespace) -> str:
    """Return the table of all trainings, with the mean of each precision and the spread of its seeds."""
    heads = ["precision", "seed", *(f"loss, quarter {number + 1}" for number in range(PARTS)), METRIC]
    lines = []
    for precision in given.precisions:
        found = np.array([row(given, precision, seed) for seed in given.seeds])  # (seeds, parts + 1)
        names = [*map(str, given.seeds), "mean", "standard deviation"]
        for name, values in zip(names, [*found, found.mean(0), found.std(0, ddof=1)], strict=True):
            lines.append([precision, name, *(f"{value:.4f}" for value in values[:-1]), f"{values[-1]:.1%}"])
    return markdown_table(heads, lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="dataset whose gestures the judge knows")
    parser.add_argument("--gesture", default="palm")
    parser.add_argument("--base", default="mini-stable-diffusion")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40, help="40 of 80 images at batch 16 are 200 steps")
    parser.add_argument("--pictures", type=int, default=6, help="seeds for each test prompt")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    text = table(given)
    write_text(given.out / "table.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
