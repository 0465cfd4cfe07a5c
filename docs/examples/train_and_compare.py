"""Train a model on one gesture, compare its images with those of the base, and write a report.

    python docs/examples/train_and_compare.py --dataset dataset/mini --gesture palm --out runs/palm

The defaults are the mini model and its preset. For Stable Diffusion use, for example,
`--base hf:CompVis/stable-diffusion-v1-4 --preset paper`.
"""

import argparse
from pathlib import Path

import handtrain


def main() -> None:
    """Train, generate, evaluate, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="dataset/mini", help="folder or hf:USER/NAME of the dataset")
    parser.add_argument("--gesture", default="palm", help="configuration of the dataset")
    parser.add_argument("--base", default="mini-stable-diffusion", help="base model")
    parser.add_argument("--preset", default="mini", help="preset of the training")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the images in Stage III")
    parser.add_argument("--images", type=int, default=14, help="images per test prompt")
    parser.add_argument("--clip", default="none", help="model of the CLIP score, or none")
    parser.add_argument("--out", type=Path, default=Path("runs/palm"), help="run folder")
    flags = parser.parse_args()

    run = handtrain.train(
        flags.dataset,
        gesture=flags.gesture,
        base=flags.base,
        out=flags.out,
        preset=flags.preset,
        unet_epochs=flags.epochs,
    )
    test = f"{flags.dataset}:test"
    drawing = {"prompts": test, "gesture": flags.gesture, "seeds": range(flags.images), "batch": 25, "steps": 20}
    tuned = handtrain.generate(run.model, out=flags.out / "images/tuned", **drawing)
    base = handtrain.generate(flags.base, out=flags.out / "images/base", **drawing)
    scores = handtrain.evaluate(real=test, fake=tuned, base=base, gesture=flags.gesture, clip=flags.clip)
    scores.write(flags.out / "evaluation.json")
    print(scores)
    print("report:", handtrain.report([run.path], flags.out / "report.html"))


if __name__ == "__main__":
    main()
