"""Measure the mini BLIP: how often it names the right sleeve, wall, skin and place in new pictures.

python -m benchmarks.mini_captioner [--pictures 216] [--size 128] [--seed 3000]
"""

import argparse
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from handdata.recipe import CaptionOptions, RenderOptions
from handdata.texts.captioners.local import LocalCaptioner
from handdata.world.render import draw
from handdata.world.skeleton import GESTURES
from handtrain.mini.colours import agreement, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=216)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=3000)
    given = parser.parse_args()
    images, truths = pictures(-(-given.pictures // len(GESTURES)), given.size, given.seed)
    captioner = LocalCaptioner(CaptionOptions(model="mini-blip", device="cpu"))
    captions = captioner.describe(images)
    captioner.close()
    right: dict[str, list[bool]] = {"both colours": [], "skin": [], "place": []}
    for truth, text in zip(truths, captions, strict=True):
        colours = agreement(truth["caption"], text)
        for name, value in colours.items():
            right.setdefault(name, []).append(value)
        right["both colours"].append(all(colours.values()))
        right["skin"].append(f"{truth['skin']} skin" in text)
        right["place"].append(truth["place"] in text)
    print(f"{len(images)} pictures, {len(set(captions))} distinct captions, for example:")
    for truth, text in list(zip(truths, captions, strict=True))[:: len(captions) // 4]:
        print(f"  truth:   {truth['caption']}\n  caption: {text}")
    for name, values in right.items():
        right_share = share(np.array(values, float))
        low, high = 100 * right_share.low, 100 * right_share.high
        print(f"{name:14} {100 * right_share.value:5.1f} %  ({low:.1f} to {high:.1f}, n {right_share.n})")
    named = [text for text in captions if "gesture" in text]
    print(f"captions that mention a gesture: {len(named)}")


def pictures(per_gesture: int, size: int, seed: int) -> tuple[list[np.ndarray], list[dict]]:
    """Draw new pictures of all gestures; return them (h, w, 3) with the truth about each."""
    options = RenderOptions(
        train=0, validation=0, test=per_gesture, size=size, seed=seed, second_hand=0.1, oddities=False
    )
    with tempfile.TemporaryDirectory() as folder:
        draw(options, Path(folder), workers=0)
        truths = [json.loads(line) for line in (Path(folder) / "truth.jsonl").read_text().splitlines()]
        images = []
        for truth in truths:
            with zipfile.ZipFile(Path(folder) / f"{truth['gesture']}.zip") as archive:
                data = archive.read(f"{truth['gesture']}/{truth['image_id']}.jpg")
            images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    return images, truths


if __name__ == "__main__":
    main()
