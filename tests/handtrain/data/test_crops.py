import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handtrain.data import crops


@settings(deadline=None)
@given(st.integers(16, 900), st.integers(16, 900), st.sampled_from([64, 256, 512]))
def test_the_center_crop_equals_torchvisions(width: int, height: int, size: int) -> None:
    import torchvision.transforms as transforms
    from PIL import Image

    corners = Image.fromarray((np.add.outer(np.arange(height), np.arange(width)) % 251).astype(np.uint8))
    resize = transforms.Resize(size, transforms.InterpolationMode.BILINEAR, antialias=True)
    theirs = transforms.CenterCrop(size)(resize(corners))
    cut = crops.window(width, height, size)
    ours = corners.resize((cut.width, cut.height), Image.Resampling.BILINEAR)
    assert np.array_equal(ours.crop((cut.left, cut.top, cut.left + size, cut.top + size)), theirs)


@settings(deadline=None)
@given(
    st.integers(16, 900), st.integers(16, 900), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1)
)
def test_the_hand_crop_contains_the_hand_if_it_fits(
    width: int, height: int, x: float, y: float, across: float, down: float
) -> None:
    box = (x, y, min(1.0, x + across), min(1.0, y + down))
    cut = crops.window(width, height, 64, box)
    assert 0 <= cut.left <= cut.width - 64
    assert 0 <= cut.top <= cut.height - 64
    if (box[2] - box[0]) * cut.width <= 62 and (box[3] - box[1]) * cut.height <= 62:  # 2 px are rounding
        assert cut.left <= box[0] * cut.width + 1e-6
        assert cut.left + 64 >= box[2] * cut.width - 1e-6
        assert cut.top <= box[1] * cut.height + 1e-6
        assert cut.top + 64 >= box[3] * cut.height - 1e-6


def test_the_hand_crop_is_the_center_if_it_contains_the_hand() -> None:
    assert crops.window(200, 100, 50, (0.45, 0.2, 0.55, 0.8)) == crops.window(200, 100, 50)


def test_the_square_is_in_minus_one_to_one_and_not_mirrored() -> None:
    import io

    from PIL import Image

    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (20, 0, 40, 20))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    pixels = crops.square(file.getvalue(), crops.window(40, 20, 20))  # red left, blue right
    assert pixels.shape == (3, 20, 20)
    assert pixels[:, 10, 1] == pytest.approx([1, -1, -1])
    assert pixels[:, 10, 18] == pytest.approx([-1, -1, 1])


def test_the_box_follows_the_crop() -> None:
    cut = crops.window(200, 100, 50)  # 100 x 50, keeps x from 25 to 75
    assert cut.box((0.25, 0.0, 0.75, 1.0)) == pytest.approx((0, 0, 1, 1))
    assert cut.box((0.5, 0.5, 1.0, 1.0)) == pytest.approx((0.5, 0.5, 1, 1))


def test_hand_weights_have_mean_one_and_the_given_ratio() -> None:
    weights = crops.hand_weights((0.25, 0.5, 0.5, 1.0), 8, 8, 3.0)
    assert weights.shape == (1, 8, 8)
    assert weights.mean() == pytest.approx(1)
    assert weights[0, 6, 3] / weights[0, 1, 1] == pytest.approx(3)
    assert weights[0, 6, 5] == weights[0, 1, 1]  # right of the box
    assert np.array_equal(crops.hand_weights(None, 8, 8, 3.0), np.ones((1, 8, 8)))
