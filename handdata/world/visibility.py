"""How much of a picture a flaw changes: the same hand right and wrong, compared on a coarse grid."""

# mypy: disable-error-code="no-any-return"

import numpy as np

from handdata.world.flesh import Capsule
from handdata.world.skeleton import Array
from handdata.world.surface import Camera, find_surface

_GRID = 64  # pixels of the comparison's longer side
_TURNED = 0.75  # cosine: a surface that faces another way by more than 41 degrees has changed
_LIGHT = np.array([0.0, 0.0, 1.0])  # find_surface wants one; its shadows are not used


def changed_share(right: list[Capsule], wrong: list[Capsule], camera: Camera, inner: int) -> float:
    """Return the share of the right hand's pixels in which the wrong hand looks different, arms left out.

    A pixel is different where only one of the hands covers it, or where their surfaces face other ways. `inner` is the
    width and height of the picture that the camera is made for.
    """
    scale = _GRID / inner
    small = Camera(camera.distance, camera.focal * scale, (camera.center[0] * scale, camera.center[1] * scale))
    seen, other = (_normals([c for c in hand if c.chain >= 0], small) for hand in (right, wrong))
    covered, both = seen.any(axis=2), seen.any(axis=2) & other.any(axis=2)
    different = (covered != other.any(axis=2)) | (both & ((seen * other).sum(axis=2) < _TURNED))
    return float(different.sum() / max(covered.sum(), 1))


def _normals(hand: list[Capsule], camera: Camera) -> Array:
    """Return the surface's normals (grid, grid, 3), zero where nothing is seen."""
    surface = find_surface(hand, camera, (_GRID, _GRID), _LIGHT)
    normals = np.zeros((_GRID, _GRID, 3))
    normals[surface.rows, surface.columns] = surface.normals
    return normals
