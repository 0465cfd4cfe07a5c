"""Share of generated pictures with the colours that their prompts name, judged by the mini BLIP.

`python -m handtrain.mini.colours FOLDER ...` reads folders that `handtrain generate` wrote; two folders are compared
picture by picture.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from handdata.errors import UserError
from handdata.files import write_json
from handdata.recipe import CaptionOptions
from handdata.texts.captioner import Captioner
from handdata.vision.pixels import open_image, to_rgb
from handdata.world.backdrop import COLOURS, DETAILS
from handdata.world.scene import SLEEVES
from handtrain.data.image_folder import read_records
from handtrain.evaluation.bootstrap import share_difference, wilson
from handtrain.mini import run_command

_SLEEVE = re.compile(rf"\b({'|'.join(SLEEVES)}) sleeve|\b(bare) arm")
_WALL = re.compile(rf"\b({'|'.join(COLOURS)}) (?:(?:{'|'.join(DETAILS['pattern'])}) )?wall")
_BATCH = 64


def colours(text: str) -> dict[str, str]:
    """Return the colours that a text of the mini world names for `sleeve` (`bare` for a bare arm) and `background`."""
    matches = {"sleeve": _SLEEVE.search(text), "background": _WALL.search(text)}
    return {name: next(filter(None, match.groups())) for name, match in matches.items() if match}


def agreement(prompt: str, description: str) -> dict[str, bool]:
    """Return for each colour in a prompt whether the description of the picture names it too."""
    described = colours(description)
    return {name: described.get(name) == colour for name, colour in colours(prompt).items()}


@dataclass(frozen=True)
class Share:
    """A share of correct colours, over the pictures whose prompts name one, with its 95 % interval."""

    n: int
    value: float
    low: float
    high: float


def share(right: np.ndarray) -> Share:
    """Return the share of right pictures (n,), with Wilson's interval."""
    return Share(len(right), float(right.mean()), *wilson(int(right.sum()), len(right)))


def judge(folders: list[Path]) -> dict[str, Any]:
    """Return the share of correct colours by attribute and folder; for two folders also the paired difference."""
    captioner = Captioner(CaptionOptions(model="mini-blip", batch=_BATCH, device="cpu"))
    verdicts = [dict(_verdicts(folder, captioner)) for folder in folders]
    captioner.close()
    shares: dict[str, Any] = {}
    for name in ("sleeve", "background"):
        rights = [{key: right[name] for key, right in verdict.items() if name in right} for verdict in verdicts]
        shares[name] = {
            str(folder): vars(share(np.array(list(right.values()), float)))
            for folder, right in zip(folders, rights, strict=True)
            if right
        }
        if len(rights) == 2 and (both := sorted(rights[0].keys() & rights[1].keys())):
            base, tuned = (np.array([right[key] for key in both], float) for right in rights)
            change = Share(len(both), float((tuned - base).mean()), *share_difference(tuned, base))
            shares[name]["difference"] = vars(change)
    return shares


def _verdicts(folder: Path, captioner: Captioner) -> Iterator[tuple[tuple[str, int], dict[str, bool]]]:
    lines = read_records(folder)
    for start in range(0, len(lines), _BATCH):
        part = lines[start : start + _BATCH]
        images = [_pixels(folder / line["file"]) for line in part]
        for line, description in zip(part, captioner.describe(images), strict=True):
            yield (line["prompt"], line["seed"]), agreement(line["prompt"], description)


def _pixels(file: Path) -> np.ndarray:
    with open_image(file) as image:
        return np.asarray(to_rgb(image))


def main(folders: Annotated[list[Path], tyro.conf.Positional], json_file: Path | None = None) -> int:
    """Print the shares; return the exit code."""
    for folder in folders:
        if not (folder / "generation.jsonl").is_file():
            raise UserError(f"{folder} has no generation.jsonl: `handtrain generate --out {folder}` writes it")
    shares = judge(folders)
    for name, by_folder in shares.items():
        for folder, right in by_folder.items():
            interval = f"{100 * right['low']:.1f} to {100 * right['high']:.1f}"
            head = f"{name + ' correct':22} {Path(folder).name:12}"
            print(f"{head} {100 * right['value']:6.1f} %  ({interval}, n {right['n']})")
    if json_file:
        write_json(json_file, shares)
    return 0


if __name__ == "__main__":
    run_command("handtrain.mini.colours", lambda: tyro.cli(main))
