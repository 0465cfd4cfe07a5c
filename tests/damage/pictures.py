"""Family of image files: formats, modes, sizes and damage that people have; stored pictures are always plain JPEG."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, PngImagePlugin

from tests.damage.files import EVALUATE
from tests.damage.trial import Trial

SIZE = (96, 72)


def _saved(mode: str, kind: str, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    gradient = Image.linear_gradient("L").resize(size)
    image = ImageOps.colorize(gradient, "red", "blue").convert("RGB")
    image = gradient.convert(mode) if mode in ("I", "F", "I;16", "1", "LA", "L") else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(kind: int, value: bytes, count: int = 1, offset: int = 8) -> bytes:
    """Return a JPEG whose orientation has this type and value."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")[:4]
    tiff = b"II*\0" + struct.pack("<I", offset) + struct.pack("<H", 1) + entry + struct.pack("<I", 0) + value
    segment = b"Exif\0\0" + tiff
    data = _saved("RGB", "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces a size and holds little."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _text() -> bytes:
    information = PngImagePlugin.PngInfo()
    for number in range(100):
        information.add_text(f"key{number}", "x" * 100_000, zip=True)
    return _saved("RGB", "PNG", pnginfo=information)


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 8, 40])):
        changed[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    return bytes(changed)


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA"), "TIFF": ("1", "L", "RGB", "CMYK", "F", "I", "LAB", "I;16"), "GIF": ("RGB",),
    "BMP": ("RGB",), "ICO": ("RGB",), "PPM": ("RGB",), "PCX": ("RGB",), "TGA": ("RGB",), "EPS": ("RGB",),
}  # fmt: skip
SIZES = ((20000, 60), (1, 60000), (65000, 10), (1, 1), (2, 3), (15, 4000), (3000, 3000))
ORIENTATIONS = (0, 2, 3, 5, 6, 8, 9, 99)
KINDS: dict[str, Callable[[random.Random], bytes]] = {
    **{f"{kind.lower()}-{mode}": lambda _, kind=kind, mode=mode: _saved(mode, kind)
       for kind, modes in MODES.items() for mode in modes},
    **{f"size-{size[0]}x{size[1]}": lambda _, size=size: _saved("RGB", "PNG", size) for size in SIZES},
    "jpeg-65500x10": lambda _: _saved("RGB", "JPEG", (65500, 10)),
    "progressive": lambda _: _saved("RGB", "JPEG", progressive=True),
    "profile-garbage": lambda _: _saved("RGB", "JPEG", icc_profile=b"garbage" * 40),
    "profile-empty": lambda _: _saved("RGB", "PNG", icc_profile=b"x"),
    "text": lambda _: _text(),
    "bomb": lambda _: _png_header(50_000, 50_000),
    "bomb-small": lambda _: _png_header(13_000, 13_000),
    "no-pixels": lambda _: _png_header(300, 300),
    "zero": lambda _: _png_header(0, 5),
    "nothing": lambda _: b"",
    "page": lambda _: b"<html></html>" * 50,
    "svg": lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "postscript": lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\nshowpage\n",
    "random": lambda chance: chance.randbytes(3000),
    "jpeg-start-only": lambda _: b"\xff\xd8\xff",
    **{f"exif-type-{kind}": lambda chance, kind=kind: _exif(kind, chance.randbytes(8)) for kind in range(14)},
    **{f"orientation-{value}": lambda _, value=value: _exif(3, struct.pack("<H", value)) for value in ORIENTATIONS},
    "exif-many": lambda _: _exif(3, b"\1\0", count=2**31),
    "exif-far": lambda _: _exif(3, b"\1\0", offset=2**32 - 1),
    "exif-text": lambda _: _exif(2, b"six\0", count=4),
}  # fmt: skip


class Pictures:
    """The family: `KIND WHERE`; `where` is a build's source, or a folder of generated images."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""
        names = [f"{kind} {where}" for kind in KINDS for where in ("build", "evaluate")]
        damaged = [f"{kind}-flipped-{number} build" for kind in KINDS for number in range(2)]
        return ["control build", *names, *damaged, *(f"{kind}-half build" for kind in KINDS)]

    def run(self, trial: Trial, name: str) -> None:
        """Put the file among others, as a picture with a usual name."""
        kind, where = name.split(" ")
        base = kind.partition("-flipped-")[0].removesuffix("-half")
        data = b"" if kind == "control" else KINDS[base](trial.chance)
        if "-flipped-" in kind and data:
            data = _flipped(data, trial.chance)
        elif kind.endswith("-half"):
            data = data[: trial.chance.randrange(len(data) + 1)]
        if where == "evaluate":
            folder = trial.copy("images")
            (folder / "00002-s0.png").write_bytes(data)
            for record in folder.glob("generation.json*"):
                record.unlink()
            real = f"{trial.fixture / 'published'}:test"
            trial.run("handtrain", "evaluate", "--real", real, "--fake", folder, *EVALUATE)
            return
        self._build(trial, data)

    def _build(self, trial: Trial, data: bytes) -> None:
        import zipfile

        os.environ["HAND1000_CACHE"] = str(trial.fixture / "cache")
        world = trial.copy("world")
        with zipfile.ZipFile(trial.fixture / "world" / "call.zip") as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        with zipfile.ZipFile(world / "call.zip", "w") as archive:
            for number, (name, pixels) in enumerate(members):
                odd = data and number % 3 == 0 and name.endswith(".jpg")
                archive.writestr(name, data if odd else pixels)
        places = ["--source.annotations", world / "annotations.zip", "--source.images", f"{world}/{{gesture}}.zip"]
        out = trial.folder / "build"
        words = ["--out", out, "--until", "landmarks", *places]
        trial.run("handdata", "build", trial.fixture / "recipe.toml", *words)
        for path in sorted(out.glob("images/*/*.jpg")):
            with Image.open(path) as image:
                plain = image.format == "JPEG" and not image.getexif() and "icc_profile" not in image.info
                if not plain or image.mode != "RGB":
                    trial.wrong.append(f"{path.name} is stored as {image.format} {image.mode}, plain: {plain}")


FAMILY = Pictures()
