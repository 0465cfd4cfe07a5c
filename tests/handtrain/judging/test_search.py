import io

import numpy as np
import pytest
from PIL import Image

from handdata import assets
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world.tasks import draw_task, plan
from handtrain.judging.search import find_hands, levels, open_finder
from tests.handtrain.judging.fakes import COLOUR, Finder
from tests.photos import needs_photos, photo_bytes, photos


@pytest.fixture
def finder():
    try:
        assets.path("hand-landmarker")
    except UserError as error:
        pytest.skip(str(error))
    with open_finder() as opened:
        yield opened


@pytest.mark.parametrize("size", [(512, 512), (1024, 700), (300, 2000), (130, 128), (64, 5000), (3000, 4000)])
def test_squares_cover_the_image_and_hold_every_smaller_box(size):
    width, height = size
    for side, squares in levels(width, height):
        assert all(0 <= x <= width - side and 0 <= y <= height - side and across == down == side
                   for x, y, across, down in squares)  # fmt: skip
        rng, box = np.random.default_rng(0), side // 3 - 2
        for _ in range(50):
            x, y = rng.integers(width - box + 1), rng.integers(height - box + 1)
            assert any(
                left <= x and top <= y and x + box <= left + side and y + box <= top + side
                for left, top, _, _ in squares
            )


def test_small_images_have_no_squares_and_large_ones_three_halvings():
    assert not list(levels(64, 64)) and not list(levels(1, 60_000))
    assert [side for side, _ in levels(512, 512)] == [256, 128, 64]
    assert [side for side, _ in levels(1000, 512)] == [512, 256, 128, 64]
    assert [side for side, _ in levels(4096, 4096)] == [2048, 1024, 512]


class Near(Finder):
    """Finds a square only where it is at least a fifth of the image, as MediaPipe does; keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def find(self, image):
        self.shown.append(len(image))
        found = super().find(image)
        big = [i for i, points in enumerate(found.landmarks) if np.ptp(points[:, 1]) >= 0.2]
        return type(found)(found.landmarks[big], ("Left",) * len(big), tuple(found.scores[i] for i in big))


def image_with(*squares, size=(600, 500)):
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    for left, top, side in squares:
        pixels[top : top + side, left : left + side] = (*COLOUR[:2], 80)
    return pixels


def test_a_small_hand_has_its_place_in_the_whole_image_and_counts_once():
    hands = find_hands(Near(), image_with((40, 60, 150), (400, 330, 55)))
    assert len(hands) == 2
    first, second = (hand.points()[:, :2] for hand in hands)
    assert [*first.min(0), *first.max(0)] == pytest.approx([40, 60, 190, 210], abs=0.1)
    assert [*second.min(0), *second.max(0)] == pytest.approx([400, 330, 455, 385], abs=0.1)
    assert hands[1].left_hand and (hands[1].width, hands[1].height) == (600, 500)
    whole = np.ptp(hands[0].points()[:, 2]) / 150
    assert np.ptp(hands[1].points()[:, 2]) / 55 == pytest.approx(whole, rel=1e-3), "z is in pixels of the same scale"


def test_finer_squares_are_searched_only_where_coarser_ones_found_more():
    one, many = Near(), Near()
    find_hands(one, image_with((40, 60, 150), size=(500, 500)))
    assert set(one.shown) == {500, 250}
    find_hands(many, image_with((40, 60, 150), (400, 330, 55), size=(500, 500)))
    assert set(many.shown) == {500, 250, 125}
    large = Near()
    find_hands(large, image_with(size=(1024, 1024)))
    assert set(large.shown) == {1024, 512, 256}


def test_a_hand_that_a_square_cuts_is_left_to_the_next_one():
    class Beyond(Finder):
        """Takes a hand for as large as it would be without the edge."""

        def find(self, image):
            found = super().find(image)
            cut = found.landmarks.copy()
            if len(image) == 200 and len(cut) and cut[0, :, 0].max() == 1:
                cut[0, :, 0] += 0.05
            return type(found)(cut, found.handedness, found.scores)

    hands = find_hands(Beyond(), image_with((180, 30, 40), size=(400, 400)))
    assert len(hands) == 1 and hands[0].points()[:, 0].max() == pytest.approx(220, abs=0.1)


def collage(pictures, side):
    """Return nine pictures in three rows, each fitted into a square, as an image."""
    canvas = Image.new("RGB", (3 * side, 3 * side), (40, 40, 40))
    for number, picture in enumerate(pictures):
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        canvas.paste(picture, (number % 3 * side, number // 3 * side))
    return np.asarray(canvas)


def cells(hands, side):
    """Return the number of hands in each of nine squares."""
    counts = np.zeros((3, 3), int)
    for hand in hands:
        across, down = (hand.points()[:, :2].mean(axis=0) // side).astype(int)
        counts[down, across] += 1
    return counts.ravel().tolist()


def test_all_nine_hands_of_a_drawn_collage_are_found_and_none_twice(finder):
    names = ("call", "fist", "four", "like", "ok", "palm", "peace", "rock", "three")
    options = RenderOptions(names, train=1, validation=0, test=0, size=128, seed=11, second_hand=0.0, oddities=False)
    pictures = [Image.open(io.BytesIO(draw_task(task, options)[0])) for task in plan(options)]
    pixels = collage(pictures, 128)
    assert cells(find_hands(finder, pixels), 128) == [1] * 9
    assert len(finder.find(pixels).landmarks) < 9, "the whole image alone does not show them all"


@needs_photos
def test_all_nine_hands_of_a_collage_of_photographs_are_found(finder):
    rows = [row for row in photos() if len(row["bboxes"]) == 1]
    pictures = [Image.open(io.BytesIO(photo_bytes(row))).convert("RGB") for row in rows[:9]]
    assert min(cells(find_hands(finder, collage(pictures, 256)), 256)) >= 1
