"""Make the picture of the README: images of the base above those of the tuned model, same prompts and seeds.

    python docs/make_result.py quickstart/call --out docs/result.png

The first picture of each prompt is shown, in the order of their names: none is chosen.
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LABEL = 128, 6, 92  # px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with images/base and images/tuned")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2)
    given = parser.parse_args()
    names = first_of_each_prompt(given.run / "images" / "base")[: given.columns * given.rows]
    picture(given.run / "images", names, given.columns).save(given.out, optimize=True)


def first_of_each_prompt(folder: Path) -> list[str]:
    """Return the file names of the first image of every prompt."""
    first: dict[str, str] = {}
    for line in (folder / "generation.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        first.setdefault(record["prompt"], record["file"])
    return list(first.values())


def picture(folder: Path, names: list[str], columns: int) -> Image.Image:
    """Return rows of base and tuned images by turns, each with its label."""
    blocks = [names[start : start + columns] for start in range(0, len(names), columns)]
    height = len(blocks) * (2 * (SIDE + GAP) + GAP) - GAP
    sheet = Image.new("RGB", (LABEL + columns * (SIDE + GAP), height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for block, part in enumerate(blocks):
        for row, side in enumerate(("base", "tuned")):
            top = block * (2 * (SIDE + GAP) + GAP) + row * (SIDE + GAP)
            pen.text((LABEL - 12, top + SIDE // 2), side, "black", font, anchor="rm")
            for column, name in enumerate(part):
                with Image.open(folder / side / name) as image:
                    larger = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                sheet.paste(larger, (LABEL + column * (SIDE + GAP), top))
    return sheet


if __name__ == "__main__":
    main()
