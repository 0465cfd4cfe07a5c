from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from handdata import assets
from handdata.errors import UserError
from handtrain.evaluation import hands
from handtrain.evaluation.hands import Hand
from tests import SHARED

PHOTOS = SHARED / "photos" / "images"


def landmarker() -> Path:
    try:
        return assets.path("hand-landmarker")
    except UserError as error:
        pytest.skip(str(error))


def photographs() -> list[Path]:
    if not PHOTOS.is_dir():
        pytest.skip("no shared photographs next to this checkout")
    return sorted(PHOTOS.rglob("*.jpg"))


def hand(left: float, top: float, side: float, width: int = 100, height: int = 80) -> Hand:
    """A hand whose landmarks span a square of some side, in pixels."""
    x, y = np.meshgrid(np.linspace(left, left + side, 3), np.linspace(top, top + side, 7))
    points = np.stack([x.ravel() / width, y.ravel() / height, np.zeros(21)], axis=1)
    return Hand(points, False, 0.9, width, height)


def gradient(width: int = 100, height: int = 80) -> np.ndarray:
    """Red grows with x, green with y: a crop's colours show its place."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def place(crop: np.ndarray) -> list[int]:
    """Return left, top, right, bottom of a crop of the gradient, in its pixels."""
    return [int(crop[:, 0, 0].min()), int(crop[0, :, 1].min()), int(crop[:, -1, 0].max()), int(crop[-1, :, 1].max())]


def test_our_crop_is_a_square_around_the_hand_a_quarter_wider():
    crop = hands.standard_crops(gradient(), [hand(40, 30, 20)])[0]
    assert crop.shape == (299, 299, 3)
    assert place(crop) == pytest.approx([37.5, 27.5, 62.5, 52.5], abs=1.5)


def test_a_crop_at_the_border_is_moved_inside_and_keeps_its_side():
    left, top, right, bottom = place(hands.standard_crops(gradient(), [hand(90, -5, 20)])[0])
    assert (left, top) == pytest.approx((75, 0), abs=1)
    assert (right, bottom) == pytest.approx((99, 25), abs=1.5)


def test_the_released_crop_is_the_box_around_all_hands_without_margin():
    both = [hand(10, 20, 10), hand(60, 20, 10)]  # a box of 60 x 10 pixels, of which the central square is kept
    assert place(hands.box_crops(gradient(), [both])[0]) == pytest.approx([35, 20, 45, 30], abs=1.5)


def test_a_hand_outside_the_image_gives_no_released_crop():
    assert hands.box_crops(gradient(), [[hand(120, 20, 10)]]) == []


@pytest.mark.parametrize(
    "detection", [hands.DETECTION, pytest.param(hands.DETECTION_REFERENCE, marks=pytest.mark.slow)]
)  # at 0 MediaPipe looks at every candidate: half a second an image
def test_confidence_and_found_rate_on_photographs_are_mediapipes(detection):
    """A plain loop over MediaPipe returns the same, at both thresholds."""
    import cv2
    import mediapipe as mp
    from mediapipe.tasks import python as tasks

    files, model = photographs(), landmarker()
    options = tasks.vision.HandLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(model)),
        num_hands=2,
        min_hand_detection_confidence=detection,
        min_hand_presence_confidence=0.5,
    )
    scores, found = [], 0
    with tasks.vision.HandLandmarker.create_from_options(options) as loop:
        for file in files:
            pixels = np.asarray(Image.open(file).convert("RGB"))
            if (scale := 256 / min(pixels.shape[:2])) > 1:
                pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            answer = loop.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels))
            scores += [side[0].score for side in answer.handedness]
            found += bool(answer.handedness)
    with hands.hand_finder(detection) as finder:
        ours = finder.map(lambda file: hands.find(finder, np.asarray(Image.open(file).convert("RGB"))), files)
    assert [hand.score for of_image in ours for hand in of_image] == scores
    assert sum(map(bool, ours)) == found


def test_a_small_photograph_is_searched_enlarged_and_its_landmarks_stay_fractions():
    landmarker()
    with hands.hand_finder(hands.DETECTION) as finder:
        image = Image.open(next(file for file in photographs() if file.parent.name == "palm")).convert("RGB")
        small = image.resize((image.width // 4, image.height // 4), Image.Resampling.LANCZOS)
        large_hands, small_hands = (hands.find(finder, np.asarray(photograph)) for photograph in (image, small))
    assert small_hands and (small_hands[0].width, small_hands[0].height) == small.size
    assert np.abs(small_hands[0].landmarks[:, :2] - large_hands[0].landmarks[:, :2]).max() < 0.1


def test_a_blurred_hand_is_not_found():
    landmarker()
    with hands.hand_finder(hands.DETECTION) as finder:
        image = Image.open(photographs()[0]).convert("RGB")
        assert hands.find(finder, np.asarray(image))
        assert not hands.find(finder, np.asarray(image.filter(ImageFilter.GaussianBlur(40))))
