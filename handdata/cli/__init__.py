"""The command `handdata`: the table of its commands. Their flags are in `flags`."""

import sys

from handdata.cli import program
from handdata.stages import STAGES

ABOUT = "Make a dataset of hand gesture photographs, with texts that name the gesture, from HaGRID's archives."

COMMANDS: program.Table = {
    "plan": "print the cost of a build before large files are read",
    "build": "run the stages of a build, or resume one",
    "photos": "build a dataset of your own photographs of a gesture",
    **{stage.name: stage.help for stage in STAGES if stage.help},
    "review": "write a page where a person accepts, rejects and corrects rows",
    "status": "print the number of rows done, failed and left, with reasons",
    "drop": "remove an image or a person, ready to publish again",
    "publish": "publish the dataset to the Hub or to a folder",
    "evaluate": "measure a published dataset",
    "render": "draw a small HaGRID with known ground truth",
    "assets": "fetch and verify model files",
    "doctor": "check whether this machine has all that a build and a training need",
}


def main() -> None:
    """Run the command line of this process."""
    sys.exit(program.main("handdata", ABOUT, COMMANDS, sys.argv[1:]))
