"""From a surface to pixels: light, soft edges, and the camera's noise. Colours are in linear light until developed."""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass

import numpy as np
from PIL import Image

from handdata.world.skeleton import Array
from handdata.world.surface import Surface


@dataclass(frozen=True)
class Light:
    """The light on the hands."""

    direction: Array  # unit vector towards it
    tint: Array  # (3,)
    ambient: float  # share of light from all directions


def lit_colours(surface: Surface, colour: Array, cloth: Array, light: Light) -> Array:
    """Return the colours (n, 3), linear light, in which the points of a surface appear.

    `colour` (n, 3) are their own colours, `cloth` (n, 1) marks the points that are not skin.
    """
    direction = light.direction.astype(np.float32)
    soft = np.where(cloth, 0.0, 0.22)  # light scatters in skin, not in cloth
    direct = np.clip(((surface.normals @ direction)[:, None] + soft) / (1 + soft), 0, 1) * surface.lit[:, None]
    sky = 0.6 + 0.4 * surface.normals[:, 1:2]
    bounce = light.ambient * sky * (0.35 + 0.65 * surface.open[:, None])
    half = direction + np.array([0, 0, 1])  # halfway between light and viewer
    gloss = np.clip(surface.normals @ (half / np.linalg.norm(half)), 0, 1)[:, None] ** 16 * surface.lit[:, None]
    warm = (1 - surface.open)[:, None] * np.array([0.10, -0.02, -0.05])
    shaded = colour * (0.95 * direct + bounce + np.where(cloth, 0, warm)) * light.tint
    return shaded + np.where(cloth, 0, 0.09 * gloss)


def inner_size(size: int) -> int:
    """Return the width at which hands are drawn, 1.5 to 4 times `size`, to be scaled down for smooth edges."""
    return max(3 * size // 4 * 2, min(4 * size, 192)) // 2 * 2


def laid_over(canvas: Array, surface: Surface, colour: Array, inner: int) -> Array:
    """Return the canvas with a hand over it; `colour` (n, 3) belongs to the surface's pixels."""
    layer = np.zeros((inner, inner, 4), np.float32)
    layer[surface.rows, surface.columns, :3] = np.clip(colour, 0, 1)
    layer[surface.rows, surface.columns, 3] = 1
    shrink = _area_weights(inner, len(canvas))
    small = np.einsum("ri,ijc->rjc", shrink, layer, optimize=True)
    small = np.einsum("cj,rjx->rcx", shrink, small, optimize=True)
    return canvas * (1 - small[..., 3:]) + small[..., :3]


def developed(canvas: Array, rng: np.random.Generator) -> Image.Image:
    """Return the picture in sRGB, with a little camera noise."""
    small = np.clip(canvas, 0, 1) ** (1 / 2.2)
    small += rng.normal(0, rng.uniform(0.004, 0.014), small.shape)
    return Image.fromarray((small.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _area_weights(old: int, new: int) -> Array:
    """Return the matrix (new, old) that averages `old` samples over the areas of `new` ones."""
    edges = np.arange(new + 1) * (old / new)
    low, high = np.maximum(edges[:-1, None], np.arange(old)), np.minimum(edges[1:, None], np.arange(1, old + 1))
    return (np.clip(high - low, 0, None) * (new / old)).astype(np.float32)
