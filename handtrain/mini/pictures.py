"""The training pictures of the mini models: drawn once, held as one array."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handdata.readers import read_jsonl
from handdata.recipe import RenderOptions
from handdata.vision.pixels import open_image, to_rgb
from handdata.world.render import draw

SIZE = 64  # px
_SECOND_HAND = 0.1  # share of pictures with a second hand, as in the recipe `mini`


@dataclass(frozen=True)
class World:
    """Pictures (n, 3, 64, 64) in bytes, and the truth about each with its `caption`, which names no gesture."""

    pixels: torch.Tensor
    truths: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.truths)

    def images(self, rows: list[int], mirrored: list[bool]) -> torch.Tensor:
        """Return pictures (b, 3, 64, 64) in [-1, 1], each mirrored if its entry in `mirrored` is True."""
        chosen = self.pixels[rows].float() / 127.5 - 1
        return torch.where(torch.tensor(mirrored)[:, None, None, None], chosen.flip(3), chosen)

    def captions(self, rows: list[int], mirrored: list[bool]) -> list[str]:
        """Return the captions of the same pictures, with left and right exchanged for mirrored ones."""
        pairs = zip((self.truths[row]["caption"] for row in rows), mirrored, strict=True)
        return [exchanged(caption) if turned else caption for caption, turned in pairs]


def exchanged(caption: str) -> str:
    """Return the caption of the mirrored picture."""
    sides = {"on the left": "on the right", "on the right": "on the left"}
    for side, other in sides.items():
        if side in caption:
            return caption.replace(side, other)
    return caption


def draw_world(folder: Path, whole: int, malformed: int, seed: int, workers: int = 0) -> World:
    """Draw the pictures unless they exist, and return them. Counts are per gesture; all gestures are drawn."""
    for name, count, wrong in (("whole", whole, False), ("malformed", malformed, True)):
        options = RenderOptions(
            train=count,
            validation=0,
            test=0,
            size=SIZE,
            seed=seed + int(wrong),
            malformed=wrong,
            second_hand=_SECOND_HAND,
            oddities=False,
        )
        draw(options, folder / name, workers)
    return load_world(folder / "whole", folder / "malformed")


def load_world(*folders: Path) -> World:
    """Return the pictures in folders that `handdata render` wrote, at 64 px."""
    pixels, truths = [], []
    for folder in folders:
        archives = {path.stem: zipfile.ZipFile(path) for path in folder.glob("*.zip")}
        for truth in read_jsonl(folder / "truth.jsonl"):
            data = archives[truth["gesture"]].read(f"{truth['gesture']}/{truth['image_id']}.jpg")
            with open_image(data) as image:
                small = to_rgb(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            pixels.append(np.asarray(small))
            truths.append(truth)
        for archive in archives.values():
            archive.close()
    return World(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), truths)
