"""Small build folders for the tests: a manifest and drawn images, some of them corrupt on request."""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from handdata.rows.schema import MANIFEST
from handdata.rows.shards import image_path, write_table


def make_build(folder: Path, rows: int, corrupt: tuple[int, ...] = (), size: int = 48) -> Path:
    """Write `manifest.parquet` and one small JPEG per row; the rows numbered in `corrupt` get half a file."""
    records = [_record(index) for index in range(rows)]
    write_table(pa.Table.from_pylist(records, schema=MANIFEST), folder / "manifest.parquet")
    for index, record in enumerate(records):
        path = image_path(folder, record["gesture"], record["image_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        data = draw_jpeg(index, size)
        path.write_bytes(data[: len(data) // 2] if index in corrupt else data)
    return folder


def draw_jpeg(seed: int, size: int = 48) -> bytes:
    """Return a JPEG of smooth random colours, its width and height between half of `size` and `size`."""
    chance = random.Random(seed)
    coarse = Image.frombytes("RGB", (6, 6), chance.randbytes(108))
    image = coarse.resize((chance.randint(size // 2, size), chance.randint(size // 2, size)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _record(index: int) -> dict[str, Any]:
    return {
        "image_id": f"{index:08x}-0000-4000-8000-000000000000",
        "gesture": ("call", "ok")[index % 2],
        "split": "train",
        "rank": index // 2,
        "spare": False,
        "subject": f"{index:016x}",
        "hagrid_split": "train",
        "bboxes": [[0.25, 0.25, 0.5, 0.5]],
        "labels": [("call", "ok")[index % 2]],
        "source": "drawn",
        "member": f"{index}.jpg",
        "offset": -1,
        "compressed_size": 0,
        "size": 0,
        "method": -1,
        "crc32": 0,
    }
