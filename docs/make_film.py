"""Make the moving picture of the README: the sample grids of a run, one frame for each.

handtrain train ... --sample-every 20 --sample-prompts 1 --sample-seeds 4 --out RUN
python docs/make_film.py RUN --out docs/film.webp
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LINE, MILLISECONDS, LAST = 28, 350, 2500  # px below a frame for the step; time of a frame and of the last one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with samples")
    parser.add_argument("--out", type=Path, required=True, help="a .webp file")
    given = parser.parse_args()
    first, *others = [frame(file) for file in sorted((given.run / "samples").glob("*.png"))]
    times = [MILLISECONDS] * len(others) + [LAST]
    first.save(given.out, save_all=True, append_images=others, duration=times, loop=0, quality=80, method=6)


def frame(file: Path) -> Image.Image:
    """Return a sample grid with its step below."""
    with Image.open(file) as grid:
        sheet = Image.new("RGB", (grid.width, grid.height + LINE), "white")
        sheet.paste(grid.convert("RGB"), (0, 0))
    text = f"step {int(file.stem)}"
    ImageDraw.Draw(sheet).text((8, sheet.height - LINE), text, "black", ImageFont.load_default(18))
    return sheet


if __name__ == "__main__":
    main()
