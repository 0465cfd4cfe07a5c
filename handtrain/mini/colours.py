"""Whether generated pictures have the colours that their prompts ask for, as the mini BLIP sees them.

`python -m handtrain.mini.colours FOLDER ...` reads what `handtrain generate` wrote and compares two folders picture by
picture.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from handdata.errors import UserError
from handdata.recipe import CaptionOptions
from handdata.texts.captioner import Captioner
from handdata.world.backdrop import COLOURS, DETAILS
from handdata.world.scene import SLEEVES
from handtrain.data.image_folder import read_records

_SLEEVE = re.compile(rf"\b({'|'.join(SLEEVES)}) sleeve|\b(bare) arm")
_WALL = re.compile(rf"\b({'|'.join(COLOURS)}) (?:(?:{'|'.join(DETAILS['pattern'])}) )?wall")
_BATCH = 64
_DRAWS = 2000  # of the bootstrap


def colours(text: str) -> dict[str, str]:
    """Return the colours that a text of the mini world names: of `sleeve` (`bare` for a bare arm) and `background`."""
    found = {"sleeve": _SLEEVE.search(text), "background": _WALL.search(text)}
    return {name: next(filter(None, match.groups())) for name, match in found.items() if match}


def agreement(asked: str, seen: str) -> dict[str, bool]:
    """Return for each colour that a prompt asks for whether the description of its picture has it."""
    there = colours(seen)
    return {name: there.get(name) == colour for name, colour in colours(asked).items()}


@dataclass(frozen=True)
class Share:
    """A share of colours that are as asked, over pictures that ask for one, with its 95 % interval."""

    n: int
    value: float
    low: float
    high: float


def share(right: np.ndarray, seed: int = 0) -> Share:
    """Return the mean of numbers (n,), with a percentile bootstrap over them."""
    rng = np.random.default_rng(seed)
    means = right[rng.integers(len(right), size=(_DRAWS, len(right)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Share(len(right), float(right.mean()), float(low), float(high))


def judge(folders: list[Path]) -> dict[str, Any]:
    """Return per folder and colour the share that is as asked; of two folders also the paired difference."""
    captioner = Captioner(CaptionOptions(model="mini-blip", batch=_BATCH, device="cpu"))
    verdicts = [dict(_verdicts(folder, captioner)) for folder in folders]
    captioner.close()
    found: dict[str, Any] = {}
    for name in ("sleeve", "background"):
        rights = [{key: one[name] for key, one in verdict.items() if name in one} for verdict in verdicts]
        found[name] = {
            str(folder): vars(share(np.array(list(right.values()), float)))
            for folder, right in zip(folders, rights, strict=True)
            if right
        }
        if len(rights) == 2 and (both := sorted(rights[0].keys() & rights[1].keys())):
            differences = np.array([float(rights[1][key]) - float(rights[0][key]) for key in both])
            found[name]["difference"] = vars(share(differences))
    return found


def _verdicts(folder: Path, captioner: Captioner) -> Iterator[tuple[tuple[str, int], dict[str, bool]]]:
    lines = read_records(folder)
    for start in range(0, len(lines), _BATCH):
        part = lines[start : start + _BATCH]
        images = [np.asarray(Image.open(folder / line["file"]).convert("RGB")) for line in part]
        for line, seen in zip(part, captioner.describe(images), strict=True):
            yield (line["prompt"], line["seed"]), agreement(line["prompt"], seen)


def main(folders: Annotated[list[Path], tyro.conf.Positional], json_file: Path | None = None) -> int:
    """Print the shares; return the exit code."""
    for folder in folders:
        if not (folder / "generation.jsonl").is_file():
            raise UserError(f"{folder} holds no generation.jsonl: `handtrain generate --out {folder}` writes it")
    found = judge(folders)
    for name, shares in found.items():
        for folder, one in shares.items():
            interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
            head = f"{name + ' as asked':22} {Path(folder).name:12}"
            print(f"{head} {100 * one['value']:6.1f} %  ({interval}, n {one['n']})")
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except UserError as error:
        print(f"handtrain.mini.colours: {error}", file=sys.stderr)
        sys.exit(2)
