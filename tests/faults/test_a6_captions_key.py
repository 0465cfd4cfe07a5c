"""Captions of another number format or device are other rows; a model learns one gesture that the dataset has."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from handdata.errors import UserError
from handdata.recipe import CaptionOptions
from handdata.shipped import resource
from handdata.stages.caption import Captions
from handtrain.cli.flags import Train
from handtrain.reproduce import planned
from handtrain.training import setup
from handtrain.training.train import plan_run

MINI = str(resource("models") / "mini-blip")


def key(**changes):
    return Captions.fingerprint(CaptionOptions(model=MINI, **changes))


def test_a6_another_number_format_is_another_key():
    assert key(device="cpu", dtype="float32") != key(device="cpu", dtype="bfloat16")
    assert key(device="cpu", dtype="auto") == key(device="cpu", dtype="float32")
    assert key(device="cpu", batch=1) == key(device="cpu", batch=32)


def test_a6_a_machine_with_a_gpu_has_another_key(monkeypatch):
    without = key(device="cpu")
    monkeypatch.setattr("handdata.texts.captioners.local.choose_device", lambda name: torch.device("cuda"))
    assert key()["dtype"] == "bfloat16" and key() != without
    assert key(dtype="float32")["device"] == "cuda" and key(dtype="float32") != without


@pytest.mark.parametrize("gesture", ["phone_call", "", "../call"])
def test_a6_a_gesture_without_a_definition_is_refused_before_any_file_is_read(gesture, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    for trained in (gesture, ("call", gesture), ("all", gesture)):
        with pytest.raises(UserError, match=r"--gesture\b"):
            plan_run(nowhere, gesture=trained, base=nowhere)
        with pytest.raises(UserError, match=r"--gesture\b"):
            Train(nowhere, trained, nowhere, tmp_path / "run")()
    with pytest.raises(UserError, match=r"--gestures\b"):
        planned(nowhere, gestures=("call", gesture), split="test", limit=0, seeds=(0,), generate=None, base=nowhere)


def test_a6_all_gestures_together_make_no_table_of_gestures(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"--gestures\b"):
        planned(nowhere, gestures=("all",), split="test", limit=0, seeds=(0,), generate=None, base=nowhere)


def test_a6_a_gesture_that_the_dataset_lacks_is_refused_before_the_base_is_opened(tmp_path, monkeypatch):
    (tmp_path / "data" / "ok").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: ok\n  data_files:\n  - split: train\n    path: data/ok/*.parquet\n---\n"
    )
    pq.write_table(pa.table({"a": [1]}), tmp_path / "data" / "ok" / "train.parquet")
    opened = []
    monkeypatch.setattr(setup, "open_base", opened.append)
    with pytest.raises(UserError, match=r"no configuration 'peace' \(--gesture\); it has ok"):
        plan_run(tmp_path, gesture="peace", base=tmp_path, device="cpu")
    assert opened == []


def test_a6_a_gesture_of_the_datasets_own_is_trained_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "data" / "vulcan").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: vulcan\n  data_files:\n  - split: train\n    path: data/vulcan/*.parquet\n---\n"
    )

    class Opened(Exception):
        pass

    def open_base(place, **options):
        raise Opened

    monkeypatch.setattr(setup, "open_base", open_base)
    with pytest.raises(Opened):  # all names are accepted before the base is opened
        plan_run(tmp_path, gesture="vulcan", base=tmp_path, device="cpu")
    with pytest.raises(UserError, match=r"unknown gesture 'vulcann': did you mean 'vulcan'\? \(--gesture"):
        plan_run(tmp_path, gesture=("vulcan", "vulcann"), base=tmp_path, device="cpu")
