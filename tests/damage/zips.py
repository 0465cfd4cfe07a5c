"""Family of zip structures: archives with fields that are wrong, names of other programs, and odd annotations.

Images that are stored nevertheless have to be the fixture's, byte for byte.
"""

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.damage.damages import _changed
from tests.damage.trial import Trial

ODD = [
    0,
    1,
    7,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
]
# Offset and size of the fields of each record.
FIELDS = {
    b"PK\x03\x04": [(4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
    b"PK\x01\x02": [
        (4, 2),
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (34, 2),
        (42, 4),
    ],
    b"PK\x05\x06": [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
    b"PK\x06\x06": [(4, 8), (12, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)],
    b"PK\x06\x07": [(4, 4), (8, 8), (16, 4)],
}  # fmt: skip
RECORDS = {"local": b"PK\x03\x04", "central": b"PK\x01\x02", "end": b"PK\x05\x06", "end64": b"PK\x06\x06"}
RECORDS["locator64"] = b"PK\x06\x07"

Members = list[tuple[str, bytes]]


def _members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist() if not name.endswith("/")]


def _written(members: Members, method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            information = zipfile.ZipInfo(name)
            information.filename, information.compress_type = name, method  # as given: no change of separators
            archive.writestr(information, data)
        archive.comment = comment
    return buffer.getvalue()


def _zip64(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
                file.write(data)
        zipfile.ZIP_FILECOUNT_LIMIT, limit = 1, zipfile.ZIP_FILECOUNT_LIMIT  # writes the zip64 end record
        try:
            archive.close()
        finally:
            zipfile.ZIP_FILECOUNT_LIMIT = limit
    return buffer.getvalue()


def _streamed(members: Members) -> bytes:
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, block: bytes) -> int:  # type: ignore[override]
            self.data += bytes(block)
            return len(block)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return pipe.data


def _field(record: str, data: bytes, chance: random.Random) -> bytes:
    """Set a field of one record, or of all records of its kind, to an odd value."""
    changed, places, start = bytearray(data), [], -1
    while (start := data.find(RECORDS[record], start + 1)) >= 0:
        places.append(start)
    if not places:
        return data
    for place in places if chance.random() < 0.3 else [chance.choice(places)]:
        offset, size = chance.choice(FIELDS[RECORDS[record]])
        value = chance.choice(ODD) & ((1 << (8 * size)) - 1)
        changed[place + offset : place + offset + size] = value.to_bytes(size, "little")
    return bytes(changed)


def _named(change: Callable[[str], str]) -> Callable[[Members, random.Random], bytes]:
    return lambda members, chance: _written([(change(name), data) for name, data in members])


def _extra(members: Members, chance: random.Random) -> bytes:
    """Give members extra fields that announce more than they hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            information = zipfile.ZipInfo(name)
            length = chance.choice([0, 3, 8, 24, 60000])
            information.extra = struct.pack("<HH", chance.choice([1, 0x5455, 0x7075, 0x9901]), length) + b"\xff" * 8
            archive.writestr(information, data)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Members, random.Random], bytes]] = {
    **{f"{record}-field": lambda m, c, record=record: _field(record, _written(m), c)
       for record in ("local", "central", "end")},
    **{f"zip64-{record}-field": lambda m, c, record=record: _field(record, _zip64(m), c) for record in RECORDS},
    "zip64": lambda members, chance: _zip64(members),
    "streamed": lambda members, chance: _streamed(members),
    "deflated": lambda members, chance: _written(members, zipfile.ZIP_DEFLATED),
    "bzip2": lambda members, chance: _written(members, zipfile.ZIP_BZIP2),
    "lzma": lambda members, chance: _written(members, zipfile.ZIP_LZMA),
    "backslashes": _named(lambda name: name.replace("/", "\\")),
    "absolute": _named(lambda name: "/" + name),
    "drive": _named(lambda name: "C:\\" + name.replace("/", "\\")),
    "parents": _named(lambda name: "../../" + name),
    "inner-parents": _named(lambda name: name.replace("/", "/../x/")),
    "double-slash": _named(lambda name: name.replace("/", "//")),
    "upper-case": _named(str.upper),
    "deep": _named(lambda name: "a/" * 500 + name),
    "long": _named(lambda name: name.replace("/", "/" + "x" * 3000, 1)),
    "umlauts": _named(lambda name: f"\u00fc\u00df/{name}"),
    "control": _named(lambda name: name.replace(".jpg", "\x07.jpg")),
    "newline": _named(lambda name: name.replace("/", "/\n")),
    "twice": lambda members, chance: _written(members + [(name, b"other") for name, _ in members]),
    "sidecars": lambda members, chance: _written([pair for name, data in members
                                                  for pair in (("__MACOSX/._" + name, b"\0"), (name, data))]),
    "prefix": lambda members, chance: b"#!/bin/sh\n" * 100 + _written(members),
    "suffix": lambda members, chance: _written(members) + chance.randbytes(chance.choice([1, 21, 22, 70000])),
    "comment": lambda members, chance: _written(members, comment=b"PK\x05\x06" + bytes(18) + b"x" * 1000),
    "extra": _extra,
    "empty": lambda members, chance: _written([]),
    "folders": lambda members, chance: _written([(name + "/", b"") for name, _ in members]),
    "half": lambda members, chance: _written(members)[: chance.randrange(20, len(_written(members)))],
    "flipped": lambda members, chance: _flipped(_written(members), chance, 0),
    "flipped-directory": lambda m, c: _flipped(_written(m), c, _written(m).find(b"PK\x01\x02")),
    "nothing": lambda members, chance: b"",
    "page": lambda members, chance: b"<html>404</html>" * 100,
    "tar": lambda members, chance: b"ustar".ljust(10240, b"\0"),
}  # fmt: skip


def _flipped(data: bytes, chance: random.Random, start: int) -> bytes:
    changed = bytearray(data)
    for _ in range(8):
        changed[chance.randrange(start, len(data))] ^= chance.randrange(1, 256)
    return bytes(changed)


def _odd_annotations(members: Members, chance: random.Random) -> Members:
    """Change parts of the records."""
    odd = []
    for name, data in members:
        value = json.loads(data)
        for _ in range(chance.randrange(1, 6)):
            value = _changed(value, chance)
        text = json.dumps(value)
        if chance.random() < 0.2:
            text = text.replace("0.", f"1{'0' * 400}.", 1)
        odd.append((name, text.encode("utf-8", "surrogatepass")))
    return odd


class Zips:
    """The family: `WHICH KIND`, the images or the annotations."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases; fields are changed in many ways."""
        names = ["images none", *(f"images {kind}" for kind in KINDS), *(f"annotations {kind}" for kind in KINDS)]
        fields = [
            f"images {kind} {number}" for kind in KINDS if "field" in kind or "flip" in kind for number in range(12)
        ]
        return [*names, *fields, *(f"annotations records {number}" for number in range(60))]

    def run(self, trial: Trial, name: str) -> None:
        """Build from a world whose archive is replaced."""
        which, kind = name.split(" ")[:2]
        world = trial.folder / "world"
        shutil.copytree(trial.fixture / "world", world, symlinks=True, ignore=shutil.ignore_patterns(".*"))
        path = world / ("call.zip" if which == "images" else "annotations.zip")
        members = _members(path)
        if kind == "records":
            path.write_bytes(_written(_odd_annotations(members, trial.chance)))
        elif kind != "none":
            path.write_bytes(KINDS[kind](members, trial.chance))
        os.environ["HAND1000_CACHE"] = str(trial.folder / "cache")
        places = ["--source.annotations", world / "annotations.zip", "--source.images", f"{world}/{{gesture}}.zip"]
        words = ["--out", trial.folder / "build", "--until", "facts", *places, "--fetch.attempts", "2"]
        trial.run("handdata", "build", trial.fixture / "recipe.toml", *words)
        for image in sorted((trial.folder / "build").glob("images/*/*.jpg")):
            if (trial.fixture / "build/images" / image.parent.name / image.name).exists():
                trial.compare(image, f"build/images/{image.parent.name}/{image.name}")


FAMILY = Zips()
