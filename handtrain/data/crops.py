"""Crop photographs to the square that the model sees, and weight the loss by the box of the hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom, in fractions of the image

MOST_RESIZED = 32_000_000  # pixels of a resized image; only pictures of extreme shapes have more


@dataclass(frozen=True)
class Window:
    """A resize to (width, height), then a square crop with side `size` and left upper corner (left, top); in pixels."""

    width: int
    height: int
    left: int
    top: int
    size: int

    def crop(self, image: Any) -> Any:
        """Return the square of a Pillow image (bilinear, antialiased)."""
        from PIL import Image

        if self.width * self.height > MOST_RESIZED:  # a picture of 1 x 60,000 would need gigabytes
            return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self._part(image))
        resized = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return resized.crop((self.left, self.top, self.left + self.size, self.top + self.size))

    def _part(self, image: Any) -> Box:
        """Return the square as a box in pixels of the image; the crop of a resized image can differ in rounding."""
        across, down = image.width / self.width, image.height / self.height
        right, bottom = (self.left + self.size) * across, (self.top + self.size) * down
        return self.left * across, self.top * down, min(right, image.width), min(bottom, image.height)

    def box(self, box: Box) -> Box:
        """Convert a box in fractions of the image to fractions of the square, clipped to it."""
        left, top, right, bottom = box
        x = [(value * self.width - self.left) / self.size for value in (left, right)]
        y = [(value * self.height - self.top) / self.size for value in (top, bottom)]
        x0, x1, y0, y1 = (min(max(value, 0.0), 1.0) for value in (*x, *y))
        return x0, y0, x1, y1


def window(width: int, height: int, size: int, box: Box | None = None) -> Window:
    """Return the square of side `size` after the short side is resized to it: the center, or the nearest with the box.

    The rounding is that of torchvision's Resize and CenterCrop, as in the released code. The center of a box that is
    longer than the square becomes the square's center.
    """
    if width <= height:
        scaled_width, scaled_height = size, int(size * height / width)
    else:
        scaled_width, scaled_height = int(size * width / height), size
    left, top = round((scaled_width - size) / 2.0), round((scaled_height - size) / 2.0)
    if box is not None:
        left = _slide(left, scaled_width, size, box[0] * scaled_width, box[2] * scaled_width)
        top = _slide(top, scaled_height, size, box[1] * scaled_height, box[3] * scaled_height)
    return Window(scaled_width, scaled_height, left, top, size)


def square(data: bytes, cut: Window) -> np.ndarray:
    """Decode an image file and return its square as float32 (3, size, size) in [-1, 1] (bilinear, antialiased).

    Raises `UnreadableImage`.
    """
    from handdata.vision.pixels import open_image, to_rgb

    with open_image(data) as image:
        pixels = np.asarray(cut.crop(to_rgb(image)), dtype=np.float32) / np.float32(255)  # (size, size, 3)
    return np.ascontiguousarray((pixels * 2 - 1).transpose(2, 0, 1))  # (3, size, size)


def hand_weights(box: Box | None, height: int, width: int, weight: float) -> np.ndarray:
    """Return the loss weights (1, height, width) of an image: mean 1, inside the box `weight` times those outside.

    The weight of a latent cell that is partly inside the box is interpolated.
    """
    weights = np.ones((1, height, width), dtype=np.float32)
    if box is not None:
        across, down = _covered(width, box[0], box[2]), _covered(height, box[1], box[3])
        weights[0] += (weight - 1) * np.outer(down, across)
    weights /= weights.mean()
    return np.asarray(weights)


def _covered(cells: int, low: float, high: float) -> np.ndarray:
    """Return the share (cells,) of each cell of a row or column between two fractions of its length."""
    edges = np.arange(cells)
    return np.asarray(np.clip(np.minimum(edges + 1, high * cells) - np.maximum(edges, low * cells), 0, 1))


def _slide(start: int, length: int, size: int, low: float, high: float) -> int:
    """Return the start of a crop of `size` pixels, moved as little as possible to contain the pixels low to high."""
    if high - low >= size:
        moved = round((low + high - size) / 2)
    else:
        moved = min(max(start, int(np.ceil(high)) - size), int(np.floor(low)))
    return min(max(moved, 0), length - size)
