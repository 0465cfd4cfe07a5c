import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from handdata.errors import UserError
from handtrain.data.image_folder import read_records, read_settings
from handtrain.evaluation.records import fault_of, read_evaluation
from handtrain.model.about import fault_of as model_fault
from handtrain.model.about import model_fault as unusable
from handtrain.model.about import read_about
from handtrain.model.card import model_card
from handtrain.seals import sealed
from tests.handtrain.evaluation.test_scores import RECORD

OPTIONS = {
    "embedding_steps": 10, "embedding_lr": 1e-3, "unet_epochs": 20, "unet_batch": 1, "unet_lr": 1e-6,
    "order": "stages", "seed": 0, "precision": "bf16", "lora_rank": 8,
}  # fmt: skip
ABOUT: dict[str, Any] = {
    "format": 1, "gesture": "call", "gesture_phrase": "making phone call hand gesture", "lam": 0.7, "crop": "center",
    "resolution": 16, "seed": 0, "feature": {"kind": "absolute", "values": [0.1] * 63},
    "fusion": {"kind": "token", "tokens": 77, "width": 16},
    "training": {
        "options": OPTIONS, "dataset": {"place": "hf:me/hands"}, "base": {"place": "hf:me/base"}, "preset": "fast",
        "images": 5, "without_hand": 0, "versions": {"torch": "2"},
    },
}  # fmt: skip
_LOST = object()


def _changed(path: str, value: Any) -> dict[str, Any]:
    about = copy.deepcopy(ABOUT)
    *parents, last = path.split(".")
    target = about
    for name in parents:
        target = target[name]
    if value is _LOST:
        del target[last]
    else:
        target[last] = value
    return about


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("feature", _LOST), ("feature.values", [0.1] * 62), ("feature.values", [0.1] * 62 + [float("nan")]),
        ("feature.values", [10**400] * 63), ("feature.kind", 3), ("fusion", []), ("fusion.kind", "magic"),
        ("fusion.width", 10**9), ("fusion.tokens", "77"), ("lam", 1.5), ("lam", True), ("lam", None), ("crop", "left"),
        ("resolution", 0), ("resolution", 10**30), ("gesture", _LOST), ("gesture_phrase", 5), ("training", [1]),
        ("training.options", _LOST), ("training.options.unet_lr", "fast"), ("training.dataset", "hands"),
        ("training.images", 10**300), ("files", {"../../etc/passwd": "0"}), ("files", ["unet"]),
    ],
)  # fmt: skip
def test_d2_a_hostile_hand1000_json_is_one_sentence(tmp_path: Path, path: str, value: Any) -> None:
    (tmp_path / "hand1000.json").write_text(json.dumps(_changed(path, value)))
    with pytest.raises(UserError, match=r"--model .*hand1000.json is damaged"):
        read_about(tmp_path, "--model")


_POSE = " ".join(["0.5"] * 64)
_POSED: dict[str, Any] = {
    **ABOUT, "format": 2, "gesture": None, "gesture_phrase": None, "fusion": {"kind": "none"}, "lam": 1.0,
    "pose": {"routes": ["map"]},
    "gestures": {name: {"phrase": f"making {name} gesture", "poses": [_POSE]} for name in ("ok", "call")},
}  # fmt: skip


def test_d2_several_gestures_with_poses_are_read(tmp_path: Path) -> None:
    (tmp_path / "hand1000.json").write_text(json.dumps(sealed(_POSED)))
    assert list(read_about(tmp_path, "--model")["gestures"]) == ["ok", "call"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 3}, {"format": "2"}, {"format": 0}, {"gestures": _LOST}, {"gestures": []}, {"gestures": {}},
        {"gestures": 7}, {"gestures": {"ok": {"phrase": "p", "poses": [_POSE]}}}, {"gestures": {"ok": 1, "call": 2}},
        {"gestures": {"ok": {"phrase": 5, "poses": []}, "call": {"phrase": "p", "poses": []}}},
        *({"gestures": {name: {"phrase": name, "poses": poses} for name in ("ok", "call")}}
          for poses in (_POSE, [_POSE[4:]], *([_POSE.replace("0.5", word, 1)] for word in ("nan", "x", "1e300")),
                        [[0.5] * 64], [None])),
        {"pose": []}, {"pose": {}}, {"pose": {"routes": []}}, {"pose": {"routes": ["magic"]}},
        {"pose": {"routes": [["map"]]}}, {"pose": {"routes": "map"}}, {"format": 1, "pose": None},
    ],
)  # fmt: skip
def test_d2_hostile_poses_of_a_model_are_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    about = {name: value for name, value in {**_POSED, **changes}.items() if value is not _LOST}
    (tmp_path / "hand1000.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"--model .*hand1000.json is damaged"):
        read_about(tmp_path, "--model")


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, "{é".encode("latin-1"), b"\xff\xfe{\x00}\x00"])
def test_d2_an_unreadable_hand1000_json_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "hand1000.json").write_bytes(data)
    with pytest.raises(UserError, match="--model"):
        read_about(tmp_path, "--model")


def test_d2_a_changed_number_and_a_changed_file_of_a_model_are_noticed(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "part").write_bytes(b"weights")
    about = sealed({**ABOUT, "files": {"part": hashlib.sha256(b"weights").hexdigest()}})
    (tmp_path / "hand1000.json").write_text(json.dumps(about))
    assert model_fault(tmp_path, read_about(tmp_path, "--model")) is None
    (tmp_path / "part").write_bytes(b"wEights")
    assert model_fault(tmp_path, about) == "part is damaged"
    (tmp_path / "part").unlink()
    assert model_fault(tmp_path, about) == "part is missing"
    (tmp_path / "hand1000.json").write_text(json.dumps({**about, "lam": 0.71}))
    with pytest.raises(UserError, match="does not match its own sha256"):
        read_about(tmp_path, "--model")


def test_d2_a_model_of_an_older_version_needs_the_weights_of_all_networks(tmp_path: Path) -> None:
    (tmp_path / "hand1000.json").write_text(json.dumps(ABOUT))  # without hashes of files
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, stem in stems.items():
        assert unusable(tmp_path) is not None
        (tmp_path / part).mkdir()
        save_file({"weight": torch.zeros(1)}, tmp_path / part / f"{stem}.safetensors")
    assert unusable(tmp_path) is None


def test_e_the_card_names_precision_and_adapters() -> None:
    card = model_card(ABOUT)
    assert "| precision | bf16 |" in card
    assert "| trained weights | LoRA adapters of rank 8 on to_q, to_k, to_v, to_out.0" in card
    assert "| trained weights | all weights of the UNet |" in model_card(_changed("training.options.lora_rank", 0))


@pytest.mark.parametrize(
    "line", ["{", "3", "[]", '{"file": 3, "prompt": "a"}', '{"file": "a.png"}', '{"file": "a.png", "prompt": null}']
)
def test_d2_a_damaged_list_of_generated_images_names_the_remedy(tmp_path: Path, line: str) -> None:
    good = json.dumps({"file": "b.png", "prompt": "a hand", "seed": 0})
    (tmp_path / "generation.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=r"generation.jsonl is damaged: run the same `handtrain generate` again"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [None, [], {"crop": "left"}, {"crop": 3}, {"mu": "0.7"}, {"lam": 10**400}, {"sessions": [{"images": 3}]},
     {"gesture": ["call"]}, {"black": "none"}],
)  # fmt: skip
def test_d2_damaged_settings_of_generated_images_name_the_remedy(tmp_path: Path, settings: Any) -> None:
    (tmp_path / "generation.jsonl").write_text("")
    if settings is not None:
        (tmp_path / "generation.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"generation.json is damaged .*run the same `handtrain generate` again"):
        read_settings(tmp_path)


def _evaluation() -> dict[str, Any]:
    return copy.deepcopy({**RECORD, "format": 2, "gesture": "call", "preparation": "none: images as they are"})


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("metrics"), lambda r: r["metrics"].update({"<b>FID</b>": {}}),
        lambda r: r["metrics"].update(FID=[]), lambda r: r["metrics"]["FID"].update(standard=None),
        lambda r: r["metrics"]["FID"]["reference"].pop("n"),
        lambda r: r["metrics"]["FID"]["reference"]["fake"].update(value=None),
        lambda r: r["metrics"]["FID"]["reference"]["fake"].update(value=10**400),
        lambda r: r["metrics"]["FID"]["reference"]["fake"].update(low="a"),
        lambda r: r["metrics"]["FID"]["reference"]["n"].update(fake=-1), lambda r: r["fake"].update(excluded=[1]),
        lambda r: r["fake"].pop("black"), lambda r: r.update(real="folder"), lambda r: r.update(preparation=None),
        lambda r: r.update(gesture={}), lambda r: r.update(settings={"fake": {"mu": []}}),
        lambda r: r.update(format="2"),
    ],
)  # fmt: skip
def test_d2_a_hostile_evaluation_is_one_sentence(tmp_path: Path, change: Any) -> None:
    record = _evaluation()
    assert fault_of(record) is None
    change(record)
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"--metrics .*is not a file of `handtrain evaluate --json`"):
        read_evaluation(tmp_path / "evaluation.json", "--metrics")
