"""The background: a plain, shaded or patterned wall, or a wall with a thing on it."""

# mypy: disable-error-code="no-any-return"

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from handdata.world.skeleton import Array

# The words of captions and their colours (sRGB). Lightness and hue differ enough to be distinguished by eye.
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (236, 236, 232),
    "grey": (150, 152, 154),
    "beige": (222, 204, 172),
    "yellow": (238, 208, 104),
    "green": (126, 176, 130),
    "blue": (120, 164, 212),
    "pink": (236, 172, 188),
    "purple": (164, 140, 196),
}
PATTERNS = ("brick", "striped", "tiled", "checked")
THINGS = ("window", "plant", "picture", "lamp", "clock", "bookshelf")
DETAILS = {"plain": ("",), "shaded": ("",), "pattern": PATTERNS, "thing": THINGS}


def draw_backdrop(kind: str, detail: str, colour: str, side: int, size: int, rng: np.random.Generator) -> Array:
    """Return a wall (size, size, 3), sRGB from 0 to 1.

    `kind` and `detail` are a key and one of its values in `DETAILS`; a thing is on the left (side -1) or right (1).
    """
    paint = np.array(COLOURS[colour]) / 255
    wall = _pattern(detail, paint, size, rng) if kind == "pattern" else np.ones((size, size, 3)) * paint
    picture = Image.fromarray((wall.clip(0, 1) * 255).astype(np.uint8))
    if kind == "thing":
        _THINGS[detail](picture, side, size, rng)
    picture = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.002, 0.006)))
    wall = np.asarray(picture, np.float64) / 255
    strength = rng.uniform(0.35, 0.5) if kind == "shaded" else rng.uniform(0.0, 0.08)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, size)
    fall = np.clip(ramp[:, None] * np.sin(angle) + ramp[None, :] * np.cos(angle) + 0.5, 0, 1)
    grain = rng.normal(0, 0.006, (size, size, 1))
    return np.clip(wall * (1 - strength * fall)[..., None] + grain, 0, 1)


def _pattern(name: str, colour: Array, size: int, rng: np.random.Generator) -> Array:
    pitch = size / rng.uniform(5, 9)
    rows, columns = np.mgrid[0:size, 0:size] + rng.uniform(0, pitch)
    y, x = rows / pitch, columns / pitch
    if name == "brick":
        y, x = y * 1.9, x + 0.5 * (np.floor(y * 1.9) % 2)
        shade = 1 - 0.22 * ((y % 1 < 0.12) | (x % 1 < 0.06))
        tone = rng.uniform(0.92, 1.04, 4096)
        shade = shade * tone[(np.floor(y) * 57 + np.floor(x) * 131).astype(int) % 4096]
    elif name == "striped":
        shade = 1 - 0.24 * (x % 1 < 0.5)
    elif name == "tiled":
        shade = 1 - 0.22 * ((y % 1 < 0.05) | (x % 1 < 0.05))
    else:
        shade = 1 - 0.20 * ((np.floor(x) + np.floor(y)) % 2)
    return np.clip(shade[..., None] * colour, 0, 1)


def _spot(side: int, size: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the position of a thing, in the upper part of its side."""
    return (0.5 + side * rng.uniform(0.28, 0.36)) * size, rng.uniform(0.22, 0.32) * size


def _box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
    return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def _window(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, y = _spot(side, size, rng)
    draw, w, h = ImageDraw.Draw(picture), 0.24 * size, 0.36 * size
    draw.rectangle(_box(x, y, w, h), fill=(250, 250, 248))
    for i in (-1, 1):
        for j in (-1, 1):
            draw.rectangle(_box(x + i * w * 0.235, y + j * h * 0.24, w * 0.4, h * 0.42), fill=(176, 212, 240))


def _plant(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, _ = _spot(side, size, rng)
    draw, y = ImageDraw.Draw(picture), 0.62 * size
    for angle in np.radians(np.linspace(-70, 70, 9) + rng.normal(0, 5, 9)):
        reach, w = rng.uniform(0.18, 0.30) * size, 0.022 * size
        tip = (x + reach * np.sin(angle), y - reach * np.cos(angle))
        mid = ((x + tip[0]) / 2, (y + tip[1]) / 2)
        dx, dy = w * np.cos(angle), w * np.sin(angle)
        leaf = [(x, y), (mid[0] - dx, mid[1] - dy), tip, (mid[0] + dx, mid[1] + dy)]
        draw.polygon(leaf, fill=(46, int(rng.uniform(96, 140)), 58))
    w, h = 0.08 * size, 0.16 * size
    draw.polygon([(x - w, y), (x + w, y), (x + 0.7 * w, y + h), (x - 0.7 * w, y + h)], fill=(150, 82, 52))


def _picture(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, y = _spot(side, size, rng)
    draw, w, h = ImageDraw.Draw(picture), 0.26 * size, 0.22 * size
    draw.rectangle(_box(x, y, w, h), fill=(70, 48, 34))
    draw.rectangle(_box(x, y, w * 0.84, h * 0.82), fill=(150, 196, 222))
    hill = [(x - w * 0.42, y + h * 0.41), (x - w * 0.1, y - h * 0.1), (x + w * 0.15, y + h * 0.15)]
    hill += [(x + w * 0.28, y), (x + w * 0.42, y + h * 0.41)]
    draw.polygon(hill, fill=(84, 138, 84))


def _lamp(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, y = _spot(side, size, rng)
    draw, w, h = ImageDraw.Draw(picture), 0.09 * size, 0.15 * size
    draw.rectangle((x - 0.008 * size, y, x + 0.008 * size, size), fill=(60, 60, 62))
    shade = [(x - 0.55 * w, y - h / 2), (x + 0.55 * w, y - h / 2), (x + 1.2 * w, y + h / 2), (x - 1.2 * w, y + h / 2)]
    draw.polygon(shade, fill=(252, 236, 170))


def _clock(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, y = _spot(side, size, rng)
    draw, r = ImageDraw.Draw(picture), 0.115 * size
    draw.ellipse(_box(x, y, 2 * r, 2 * r), fill=(40, 40, 44))
    draw.ellipse(_box(x, y, 1.72 * r, 1.72 * r), fill=(246, 246, 240))
    for reach, angle in ((0.7, rng.uniform(0, 6.28)), (0.45, rng.uniform(0, 6.28))):
        tip = (x + reach * r * np.sin(angle), y - reach * r * np.cos(angle))
        draw.line([(x, y), tip], fill=(30, 30, 30), width=max(1, round(0.012 * size)))


def _bookshelf(picture: Image.Image, side: int, size: int, rng: np.random.Generator) -> None:
    x, _ = _spot(side, size, rng)
    draw, w = ImageDraw.Draw(picture), 0.30 * size
    for level in (0.24, 0.46):
        y, left = level * size, x - w / 2
        while left < x + w / 2 - 0.03 * size:
            thick, tall = rng.uniform(0.018, 0.036) * size, rng.uniform(0.11, 0.16) * size
            book = tuple(int(v) for v in rng.choice([(150, 50, 44), (52, 84, 140), (60, 112, 76), (200, 160, 70)]))
            draw.rectangle((left, y - tall, left + thick, y), fill=book)
            left += thick + 0.004 * size
        draw.rectangle((x - w / 2, y, x + w / 2, y + 0.018 * size), fill=(110, 76, 48))


_THINGS = {
    "window": _window,
    "plant": _plant,
    "picture": _picture,
    "lamp": _lamp,
    "clock": _clock,
    "bookshelf": _bookshelf,
}
