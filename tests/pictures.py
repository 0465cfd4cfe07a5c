"""Files of odd pixels for tests: PNGs and colour profiles written by hand, and their true colours by plain numpy."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SRGB_TO_XYZ = np.array(  # D50, as profiles have it
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_TO_XYZ = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
P3_TO_XYZ = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
WHITE = np.array([0.9642, 1.0, 0.8249])  # D50


def picture(width: int = 48, height: int = 32, seed: int = 0) -> np.ndarray:
    """Return a smooth colourful picture (height, width, 3) of uint8."""
    small = np.random.default_rng(seed).integers(20, 236, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def saved(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def png(rows: np.ndarray, width: int, depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of any depth and colour type from its packed rows (height, bytes), with further chunks."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def png16(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits: grey (h, w), or (h, w, 2 to 4) grey with alpha, RGB, RGBA."""
    height, width = values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.size // (height * width)]
    return png(values.astype(">u2").reshape(height, -1), width, 16, kind, *chunks)


def profile(gamma: float, to_xyz: np.ndarray | None = None, name: str = "odd", junk: int = 0) -> bytes:
    """Return an ICC profile with a power curve: of RGB with the primaries in the columns of a matrix, else of grey."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    text = b"desc" + struct.pack(">II", 0, len(name) + 1) + name.encode() + b"\0" + bytes(78)
    tags = {b"desc": text + bytes(-len(text) % 4), b"wtpt": _xyz(WHITE)}
    if to_xyz is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {letter + b"XYZ": _xyz(column) for letter, column in zip((b"r", b"g", b"b"), to_xyz.T, strict=True)}
        tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    if junk:
        tags[b"junk"] = b"text" + bytes(4) + np.random.default_rng(0).bytes(junk - junk % 4)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    space = b"GRAY" if to_xyz is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(WHITE)[8:]
    return head.ljust(128, b"\0") + table + body


def shown(values: np.ndarray, gamma: float, to_xyz: np.ndarray | None = None) -> np.ndarray:
    """Return the sRGB colours of values in 0 to 1 under `profile`, as floats of 0 to 255."""
    linear = values**gamma
    if to_xyz is None:
        return encoded(np.repeat(linear[..., None], 3, axis=-1))
    return encoded(linear @ to_xyz.T @ np.linalg.inv(SRGB_TO_XYZ).T)


def encoded(linear: np.ndarray) -> np.ndarray:
    """Return linear values as sRGB of 0 to 255, cut off outside."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def of_lab(lab: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* (D50) as sRGB of 0 to 255."""
    middle = (lab[..., 0] + 16) / 116
    f = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE
    return encoded(xyz @ np.linalg.inv(SRGB_TO_XYZ).T)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colours of 0 to 255 with an opacity (h, w) of 0 to 1 over white paper."""
    return colours * alpha[..., None] + 255 * (1 - alpha[..., None])


def grey(values: np.ndarray) -> np.ndarray:
    """Return one channel three times."""
    return np.repeat(values[..., None], 3, axis=-1).astype(float)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
