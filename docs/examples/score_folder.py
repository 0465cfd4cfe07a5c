"""Score a folder of generated images against a folder of real ones.

    python docs/examples/score_folder.py --real photographs --fake images --gesture call --landmarks hf:USER/hand1000

The images may come from any program. Without `--landmarks` the gesture accuracy is not computed. Metrics whose weights
are missing are not computed either; the table names the reason.
"""

import argparse

import handtrain


def main() -> None:
    """Print the table of all metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, help="folder of real images")
    parser.add_argument("--fake", required=True, help="folder of generated images")
    parser.add_argument("--gesture", help="gesture that the images should show")
    parser.add_argument("--landmarks", help="dataset whose training hands define the gestures")
    parser.add_argument("--clip", default="none", help="model of the CLIP score, or none")
    parser.add_argument("--json", help="write all values to this file")
    flags = parser.parse_args()

    scores = handtrain.evaluate(
        real=flags.real,
        fake=flags.fake,
        gesture=flags.gesture,
        landmarks=flags.landmarks,
        clip=flags.clip,
    )
    print(scores)
    if flags.json:
        scores.write(flags.json)


if __name__ == "__main__":
    main()
