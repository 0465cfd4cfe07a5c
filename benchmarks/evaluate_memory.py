"""Measure the peak memory of `handtrain evaluate` on many images.

    python -m benchmarks.evaluate_memory [--images 10000] [--real 1000] [--side 64]

The images are drawn hands, each of a few hundred scenes under other light: all files differ, and hands are found.
Inception has random weights of the real class: it takes the memory of the real one.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from handdata.options import RenderOptions
from handdata.render import draw
from tests.handtrain.inceptions import write_inception_fid

SCENES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--real", type=int, default=1_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--bootstrap", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = drawn(folder / "drawn", given.side)
        for side, count, seed in (("fake", given.images, 0), ("real", given.real, 1)):
            write(scenes, folder / side, count, seed)
        weights = write_inception_fid(folder / "fid.pth")
        command = ["handtrain", "evaluate", "--real", str(folder / "real"), "--fake", str(folder / "fake")]
        command += ["--inception-fid", str(weights), "--clip", "none", "--variants", "standard"]
        command += ["--bootstrap", str(given.bootstrap), "--cache", str(folder / "cache")]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", *command], check=True)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(
        f"{given.images:,} against {given.real:,} images of {given.side} px: peak {used.ru_maxrss / 2**20:.2f} GiB, "
        f"{seconds:.0f} s by the clock, {cpu:.0f} s of CPU"
    )


def drawn(folder: Path, side: int) -> list[np.ndarray]:
    """Draw the scenes (h, w, 3)."""
    options = RenderOptions(gestures=("call",), train=0, validation=0, test=SCENES, size=side, oddities=False)
    draw(options, folder, workers=0)
    with zipfile.ZipFile(folder / "call.zip") as archive:
        files = [io.BytesIO(archive.read(name)) for name in archive.namelist() if name.endswith(".jpg")]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def write(scenes: list[np.ndarray], folder: Path, count: int, seed: int) -> None:
    """Write so many different PNGs: a scene in another light, with a little noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = scenes[number % len(scenes)]
        lit = scene * rng.uniform(0.8, 1.1, size=3) + rng.normal(0, 2, size=scene.shape)
        Image.fromarray(lit.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.png", compress_level=1)


if __name__ == "__main__":
    main()
