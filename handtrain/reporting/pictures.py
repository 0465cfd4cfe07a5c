"""Pictures as data URLs, so that a page refers to no other file."""

import base64
import io
from pathlib import Path

from PIL import Image

from handdata.vision.pixels import open_image, upright


def picture(file: Path, longest: int) -> str:
    """Return an image file as a data URL, `longest` pixels at most; a much smaller image is enlarged unsmoothed."""
    with open_image(file) as opened:
        image = upright(opened)
    side = max(image.size)
    if side > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    elif side * 2 <= longest:
        times = longest // side
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return data_url(image)


def data_url(image: Image.Image, quality: int = 88) -> str:
    """Return an RGB image as the data URL of a JPEG."""
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
