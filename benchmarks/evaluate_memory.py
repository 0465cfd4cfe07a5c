"""Measure the peak memory of `handtrain evaluate` on many images.

    python -m benchmarks.evaluate_memory [--images 10000] [--real 1000] [--side 64] [--inception]

The images are drawn hands: a few hundred scenes, each in different light, so that all files differ and hands are found.
Without `--inception` a cheap network with the same number of features replaces Inception, which takes a third of a
second per image on one core; with it, weights are random.
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

from handdata.recipe import RenderOptions
from handdata.world.render import draw
from tests.handtrain.inceptions import write_inception_fid

SCENES = 200

# `handtrain` with a cheap network of 2,048 features: random projections of a picture's corner.
STAND_IN = """
import sys
import numpy as np
from handdata.cli import program
from handtrain import cli
from handtrain.evaluation import networks

projection = np.random.default_rng(0).normal(size=(768, networks.INCEPTION)).astype(np.float32)

def network(weights, device):
    def run(images):
        corners = np.stack([image[:16, :16].ravel() for image in images]).astype(np.float32)
        return corners @ projection / 768
    return networks.Network("stand-in", "none", networks.INCEPTION, run)

networks.inception_fid = network
sys.exit(program.main("handtrain", cli.ABOUT, cli.COMMANDS, sys.argv[1:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--real", type=int, default=1_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--bootstrap", type=int, default=10)
    parser.add_argument("--inception", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = drawn(folder / "drawn", given.side)
        for side, count, seed in (("fake", given.images, 0), ("real", given.real, 1)):
            write(scenes, folder / side, count, seed)
        weights = write_inception_fid(folder / "fid.pth")
        program = ["-m", "handtrain"] if given.inception else ["-c", STAND_IN]
        command = [*program, "evaluate", "--real", str(folder / "real"), "--fake", str(folder / "fake")]
        command += ["--inception-fid", str(weights), "--variants", "standard"]
        command += ["--clip", "none"]
        command += ["--bootstrap", str(given.bootstrap), "--cache", str(folder / "cache")]
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True)
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
    """Write `count` different PNGs: scenes in different light, with a little noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = scenes[number % len(scenes)]
        lit = scene * rng.uniform(0.8, 1.1, size=3) + rng.normal(0, 2, size=scene.shape)
        Image.fromarray(lit.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.png", compress_level=1)


if __name__ == "__main__":
    main()
