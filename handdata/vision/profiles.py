"""Colour profiles (ICC): conversion to sRGB, and whether a profile is sRGB by what it does to colours.

Little CMS computes, with perceptual intent as Pillow's default. Names of profiles are not read.
"""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # of 255: sRGB profiles of several makers differ from Little CMS's own by this much

_PIXELS = {"RGB": ("RGB",), "GRAY": ("L", "I;16"), "CMYK": ("CMYK",), "Lab": ("LAB",)}  # modes by colour space
# Little CMS by itself interpolates in a coarse table: dark colours are then wrong by 3 of 255.
_FINE, _EXACT = ImageCms.Flags.HIGHRESPRECALC, ImageCms.Flags.NOOPTIMIZE
_FLAGS = {"CMYK": _EXACT}


class DamagedProfile(Exception):
    """The bytes are not a profile, or not one for these pixels."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image (L, I;16, RGB or CMYK) with a profile as RGB in sRGB; a grey one may have a profile of RGB.

    Raises `DamagedProfile`.
    """
    space = _space(profile)
    if space == "RGB" and image.mode in ("L", "I;16"):
        image = grey(image).convert("RGB")
    if image.mode not in _PIXELS.get(space, ()):
        raise DamagedProfile(f"a profile of {space or 'an unknown kind'} for pixels of {image.mode}")
    if image.mode == "RGB" and _is_srgb(profile):
        return image
    converted = ImageCms.applyTransform(image, _transform(profile, image.mode))
    assert converted is not None
    return converted


def changes_rgb(profile: bytes | None) -> bool:
    """Return whether RGB pixels with this profile have other colours than in sRGB; one that is damaged has no effect.

    It is sRGB if it shows a lattice of colours as sRGB does, within `SAME` of each channel.
    """
    try:
        return bool(profile) and _space(profile) == "RGB" and not _is_srgb(profile)
    except DamagedProfile:
        return False


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in CIE L*a*b* (D50) as RGB in sRGB."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    converted = ImageCms.profileToProfile(image, lab, _srgb(), outputMode="RGB", flags=_EXACT)
    assert converted is not None
    return converted


def grey(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits (I;16) with 8 (L), rounded."""
    if image.mode != "I;16":
        return image
    return Image.fromarray(((np.asarray(image, dtype=np.uint32) + 128) // 257).astype(np.uint8))


@functools.lru_cache(maxsize=32)
def _is_srgb(profile: bytes) -> bool:
    steps = np.array([0, 8, 16, 32, 64, 96, 128, 192, 255], dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)  # 9^3 colours
    shown = ImageCms.applyTransform(Image.fromarray(lattice), _transform(profile, "RGB"))
    return int(np.abs(np.asarray(shown, dtype=int) - lattice).max()) <= SAME


@functools.lru_cache(maxsize=32)
def _space(profile: bytes) -> str:
    return str(_opened(profile).profile.xcolor_space).strip()


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    try:
        return ImageCms.buildTransform(_opened(profile), _srgb(), mode, "RGB", flags=_FLAGS.get(mode, _FINE))
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise DamagedProfile(str(error)) from None


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, TypeError, ValueError) as error:
        raise DamagedProfile(str(error)) from None


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
