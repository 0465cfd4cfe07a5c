"""Build a dataset of drawn hands and publish it to a folder or to the Hub.

    python docs/examples/build_dataset.py --out build/mini --to ./dataset/mini

The same command resumes after an interruption.
"""

import argparse

import handdata

SPARE = 0.15  # share of pictures that replace failed rows


def main() -> None:
    """Build, publish and print the number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="build/mini", help="build folder")
    parser.add_argument("--to", default="./dataset/mini", help="folder or hf:USER/NAME of the dataset")
    parser.add_argument("--gestures", nargs="+", default=["call", "ok", "palm"], help="names of HaGRID's gestures")
    parser.add_argument("--train", type=int, default=80, help="training rows per gesture")
    parser.add_argument("--validation", type=int, default=4, help="validation rows per gesture")
    parser.add_argument("--test", type=int, default=30, help="test rows per gesture")
    parser.add_argument("--server", default="", help="URL of an OpenAI-compatible server that rewrites the captions")
    parser.add_argument("--workers", type=int, default=2, help="processes per stage")
    flags = parser.parse_args()

    counts = {split: getattr(flags, split) for split in ("train", "validation", "test")}
    build = handdata.Build.start(
        "mini",
        flags.out,
        render={split: count + round(count * SPARE) + 1 for split, count in counts.items()},
        select={"gestures": flags.gestures, "spare": SPARE, **counts},
        rewrite={"server": flags.server, "model": "any"} if flags.server else {},
    )
    build.run(workers=flags.workers)
    published = build.publish(flags.to)
    print(f"{published.rows} rows are in {published.place}; review page: {build.review()}")


if __name__ == "__main__":
    main()
