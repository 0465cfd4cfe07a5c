"""The stage `facts`: reasons of unreadable images, and the perceptual hash."""

import io

from PIL import Image

from handdata.stages.facts import ImageFacts
from handdata.vision.similarity import perceptual_hash
from tests.builds import draw_jpeg


def picture(seed: int) -> Image.Image:
    return Image.open(io.BytesIO(draw_jpeg(seed, 200)))


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_scaling_and_recompression_flip_few_bits_and_another_picture_flips_many():
    near, far = [], []
    for seed in range(20):
        original = picture(seed)
        file = io.BytesIO()
        original.resize((original.width // 2, original.height // 2)).save(file, "JPEG", quality=60)
        near.append(distance(perceptual_hash(original), perceptual_hash(Image.open(file))))
        far.append(distance(perceptual_hash(original), perceptual_hash(picture(seed + 100))))
    assert max(near) <= 6 and min(far) >= 14, (near, far)


def test_the_hash_is_half_ones_whatever_the_picture():
    assert all(int(perceptual_hash(picture(seed)), 16).bit_count() == 32 for seed in range(10))


def test_a_mirrored_picture_is_another_picture():
    original = picture(3)
    mirrored = original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert distance(perceptual_hash(original), perceptual_hash(mirrored)) >= 14


def test_no_image_and_half_an_image_are_reasons_and_not_errors():
    whole = draw_jpeg(1)
    facts = ImageFacts()({"image_id": ["a", "b", "c"], "image": [None, whole[:100], whole]})
    assert facts["reason"] == ["image-missing", "image-corrupt", None]
    assert facts["bytes"] == [None, None, len(whole)]
