"""The pictures that the mini models learn from: drawn once, held as one array."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handdata.recipe import RenderOptions
from handdata.world.render import draw

SIZE = 64  # px
_SECOND_HAND = 0.1  # share of pictures with a second hand, as in the recipe `mini`


@dataclass(frozen=True)
class World:
    """Pictures (n, 3, 64, 64) in bytes and what is true of each, `caption` among it; gestures are not in a caption."""

    pixels: torch.Tensor
    truths: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.truths)

    def images(self, rows: list[int], mirrored: list[bool]) -> torch.Tensor:
        """Return pictures (b, 3, 64, 64) from -1 to 1, some of them with left and right exchanged."""
        chosen = self.pixels[rows].float() / 127.5 - 1
        return torch.where(torch.tensor(mirrored)[:, None, None, None], chosen.flip(3), chosen)

    def captions(self, rows: list[int], mirrored: list[bool]) -> list[str]:
        """Return the captions of the same pictures: what was on the left is on the right in a mirrored one."""
        found = (self.truths[row]["caption"] for row in rows)
        return [exchanged(one) if turned else one for one, turned in zip(found, mirrored, strict=True)]


def exchanged(caption: str) -> str:
    """Return the caption of the mirrored picture."""
    sides = {"on the left": "on the right", "on the right": "on the left"}
    for side, other in sides.items():
        if side in caption:
            return caption.replace(side, other)
    return caption


def draw_world(folder: Path, whole: int, malformed: int, seed: int, workers: int = 0) -> World:
    """Draw the pictures unless they are there, and return them: so many per gesture, of all gestures."""
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
    """Return the pictures that lie in folders which `handdata render` filled, at 64 px."""
    pixels, truths = [], []
    for folder in folders:
        lines = (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()
        archives = {path.stem: zipfile.ZipFile(path) for path in folder.glob("*.zip")}
        for truth in map(json.loads, lines):
            data = archives[truth["gesture"]].read(f"{truth['gesture']}/{truth['image_id']}.jpg")
            image = Image.open(io.BytesIO(data)).convert("RGB")
            pixels.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
            truths.append(truth)
        for archive in archives.values():
            archive.close()
    return World(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), truths)
