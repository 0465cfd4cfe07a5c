"""The command `handdata`: the table of its commands. Their flags are in `verbs`."""

import sys

from handdata.cli import program as commands

ABOUT = "Make a dataset of hand gesture photographs, with texts that name the gesture, out of HaGRID's archives."

COMMANDS: commands.Table = {
    "plan": "say what a build will cost, before anything big is touched",
    "build": "run the stages of a build, or go on with one",
    "select": "choose the images and write the manifest",
    "fetch": "fetch the chosen images, and nothing else",
    "landmarks": "find the hands in the images with MediaPipe",
    "caption": "describe the images with an image captioner",
    "rewrite": "rewrite the captions so that each names its gesture",
    "check": "check the final texts and remark on rows worth a look",
    "review": "make a page on which a person accepts, rejects and corrects rows",
    "status": "say what is done, what failed and why",
    "assemble": "make the dataset out of a build whose other stages are done",
    "drop": "take an image or a person out, ready to publish again",
    "publish": "publish the dataset to the Hub or to a folder",
    "evaluate": "measure a published dataset",
    "render": "draw a HaGRID in small, with the truth known",
    "assets": "fetch and verify model files",
}


def main() -> None:
    """Run the command line of this process."""
    sys.exit(commands.main("handdata", ABOUT, COMMANDS, sys.argv[1:]))
