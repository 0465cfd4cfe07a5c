import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handdata.errors import UserError
from handdata.huggingface import HubName, parse
from handtrain.data import dataset as data
from tests.handtrain import tiny


def test_rows_come_in_the_order_of_their_image_id(dataset: Path) -> None:
    photographs = data.load(dataset, "call")
    assert [row.image_id for row in photographs.rows] == [f"train-{number:03d}" for number in range(5)]
    assert photographs.rows[1].phrase == tiny.PHRASE
    assert hashlib.sha256(photographs.image(3)).hexdigest() == photographs.rows[3].sha256


def test_limit_keeps_the_first_rows(dataset: Path) -> None:
    assert [row.image_id for row in data.load(dataset, "call", limit=2).rows] == ["train-000", "train-001"]


def test_the_fingerprint_tells_one_row_from_another(dataset: Path) -> None:
    assert data.load(dataset, "call").fingerprint() == data.load(dataset, "call").fingerprint()
    assert data.load(dataset, "call", limit=4).fingerprint() != data.load(dataset, "call").fingerprint()


@pytest.mark.parametrize(
    ("gesture", "split", "sentence"),
    [
        ("palm", "train", "no configuration 'palm'"),
        ("call", "test", "no split 'test' for call; it has train, validation"),
    ],
)
def test_a_wrong_gesture_or_split_is_one_sentence(dataset: Path, gesture: str, split: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        data.load(dataset, gesture, split)


def test_a_folder_without_a_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dataset"):
        data.load(tmp_path, "call")
    with pytest.raises(UserError, match="is not a folder"):
        data.load(tmp_path / "absent", "call")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tiny.write_dataset(tmp_path / "dataset")
    for path in folder.glob("data/call/*.parquet"):
        Dataset.from_parquet(str(path), cache_dir=str(tmp_path)).remove_columns(["gesture_hand", "text"]).to_parquet(
            path
        )
    with pytest.raises(UserError, match="lacks the columns gesture_hand, text"):
        data.load(folder, "call")


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    before = data.load(tiny.write_dataset(tmp_path / "dataset"), "call")
    after = data.load(tiny.write_dataset(tmp_path / "dataset", train=7), "call")
    assert (len(before.rows), len(after.rows)) == (5, 7)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.write_dataset(tmp_path / "dataset")
    next(folder.glob("data/call/train-*.parquet")).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="cannot be read"):
        data.load(folder, "call")


def test_an_empty_split_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.write_dataset(tmp_path / "dataset", validation=0)
    with pytest.raises(UserError, match="'validation' of call is empty"):
        data.load(folder, "call", "validation")


def test_an_image_that_is_not_what_its_sha256_says_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    from handdata.rows.schema import features

    rows = [{**tiny.row("train-000", 0), "sha256": "0" * 64}]
    folder = tiny.write_dataset(tmp_path / "dataset")
    path = folder / "data" / "call" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features(tiny.GESTURES)).to_parquet(path)
    photographs = data.load(folder, "call")
    with pytest.raises(UserError, match="row train-000 is not the one that its sha256 names"):
        photographs.image(0)


@settings(deadline=None)
@given(st.integers(16, 900), st.integers(16, 900), st.sampled_from([64, 256, 512]))
def test_the_centre_is_the_one_of_torchvision(width: int, height: int, size: int) -> None:
    import torchvision.transforms as transforms
    from PIL import Image

    corners = Image.fromarray((np.add.outer(np.arange(height), np.arange(width)) % 251).astype(np.uint8))
    resize = transforms.Resize(size, transforms.InterpolationMode.BILINEAR, antialias=True)
    theirs = transforms.CenterCrop(size)(resize(corners))
    cut = data.window(width, height, size)
    ours = corners.resize((cut.width, cut.height), Image.Resampling.BILINEAR)
    assert np.array_equal(ours.crop((cut.left, cut.top, cut.left + size, cut.top + size)), theirs)


@settings(deadline=None)
@given(
    st.integers(16, 900), st.integers(16, 900), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1)
)
def test_the_hand_crop_holds_the_hand_wherever_it_fits(
    width: int, height: int, x: float, y: float, across: float, down: float
) -> None:
    box = (x, y, min(1.0, x + across), min(1.0, y + down))
    cut = data.window(width, height, 64, box)
    assert 0 <= cut.left <= cut.width - 64
    assert 0 <= cut.top <= cut.height - 64
    if (box[2] - box[0]) * cut.width <= 62 and (box[3] - box[1]) * cut.height <= 62:  # 2 px are rounding
        assert cut.left <= box[0] * cut.width + 1e-6
        assert cut.left + 64 >= box[2] * cut.width - 1e-6
        assert cut.top <= box[1] * cut.height + 1e-6
        assert cut.top + 64 >= box[3] * cut.height - 1e-6


def test_the_hand_crop_stays_in_the_centre_when_the_hand_is_there() -> None:
    assert data.window(200, 100, 50, (0.45, 0.2, 0.55, 0.8)) == data.window(200, 100, 50)


def test_the_square_is_in_minus_one_to_one_and_not_mirrored() -> None:
    import io

    from PIL import Image

    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (20, 0, 40, 20))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    pixels = data.square(file.getvalue(), data.window(40, 20, 20))  # red left, blue right
    assert pixels.shape == (3, 20, 20)
    assert pixels[:, 10, 1] == pytest.approx([1, -1, -1])
    assert pixels[:, 10, 18] == pytest.approx([-1, -1, 1])


def test_the_box_follows_the_crop() -> None:
    cut = data.window(200, 100, 50)  # 100 x 50, keeps x from 25 to 75
    assert cut.box((0.25, 0.0, 0.75, 1.0)) == pytest.approx((0, 0, 1, 1))
    assert cut.box((0.5, 0.5, 1.0, 1.0)) == pytest.approx((0.5, 0.5, 1, 1))


def test_hand_weights_have_mean_one_and_the_given_ratio() -> None:
    weights = data.hand_weights((0.25, 0.5, 0.5, 1.0), 8, 8, 3.0)
    assert weights.shape == (1, 8, 8)
    assert weights.mean() == pytest.approx(1)
    assert weights[0, 6, 3] / weights[0, 1, 1] == pytest.approx(3)
    assert weights[0, 6, 5] == weights[0, 1, 1]  # right of the box
    assert np.array_equal(data.hand_weights(None, 8, 8, 3.0), np.ones((1, 8, 8)))


def test_hub_names_are_parsed_strictly() -> None:
    assert parse("hf:me/data@v1.0", "--dataset") == HubName("me/data", "v1.0")
    assert parse("hf:me/data", "--dataset") == HubName("me/data", None)
    assert parse("some/folder", "--to", new=True) == Path("some/folder")
    with pytest.raises(UserError, match="some/folder is not a folder"):
        parse("some/folder", "--dataset")
    with pytest.raises(UserError, match="hf:USER/NAME@REVISION"):
        parse("hf:data", "--dataset")
