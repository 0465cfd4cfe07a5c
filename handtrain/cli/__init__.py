"""The command `handtrain`: the table of its commands. Their flags are in `flags`."""

import sys

from handdata.cli import program

ABOUT = "Fine-tune Stable Diffusion on the photographs of one hand gesture, generate images and evaluate their hands."

COMMANDS: program.Table = {
    "import-checkpoint": "make a model folder from a checkpoint of the paper's released code",
    "export": "write a model as a diffusers folder, in half precision, as a single file or as a LoRA",
    "publish": "publish a trained model to the Hub or a folder",
    "train": "fine-tune a base model on one gesture of a dataset",
    "generate": "generate images from a trained model or a plain base",
    "evaluate": "compare generated images with real ones",
    "judge": "judge the hands in any folders of images, without real ones",
    "app": "try models, judge pictures and browse a dataset in the browser",
    "report": "write one page from one or many runs",
    "bench": "time the presets against a plain loop that does what the released code does",
    "reproduce": "make the paper's table: train, generate, evaluate and report",
}


def main() -> None:
    """Run the command line of this process."""
    sys.exit(program.main("handtrain", ABOUT, COMMANDS, sys.argv[1:]))
