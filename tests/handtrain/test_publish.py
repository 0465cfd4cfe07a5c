import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import Unfinished, UserError
from handdata.huggingface import HubName
from handtrain import Hand1000Pipeline
from handtrain.publish import publish
from handtrain.seals import sealed


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def _llama3(model: Path) -> None:
    about = json.loads((model / "hand1000.json").read_text())
    about["training"]["llama3"] = True
    (model / "hand1000.json").write_text(json.dumps(sealed(about)))


def test_a_published_folder_is_whole_and_loads(model: Path, tmp_path: Path) -> None:
    assert publish(model.parent, tmp_path / "public" / "call") == str(tmp_path / "public" / "call")
    names = {path.name for path in (tmp_path / "public" / "call").iterdir()}
    assert {"README.md", "hand1000.json", "model_index.json", "pipeline.py", "unet", "scheduler"} <= names
    assert [path.name for path in (tmp_path / "public").iterdir()] == ["call"]
    assert Hand1000Pipeline.from_pretrained(tmp_path / "public" / "call").gesture


def test_publishing_again_replaces_the_earlier_version(copy: Path, tmp_path: Path) -> None:
    (copy / "unet" / "notes.json").write_text("{}")
    publish(copy, tmp_path / "public")
    (copy / "unet" / "notes.json").rename(copy / "unet" / "renamed.json")
    publish(copy, tmp_path / "public")
    assert (tmp_path / "public" / "unet" / "renamed.json").is_file()
    assert not (tmp_path / "public" / "unet" / "notes.json").exists()


def test_a_folder_with_other_files_is_left_unchanged(model: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").touch()
    with pytest.raises(UserError, match=r"holds 'letter\.txt', which publish did not write"):
        publish(model, tmp_path / "letters")
    assert (tmp_path / "letters" / "letter.txt").exists()


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a model of handtrain"):
        publish(tmp_path, tmp_path / "public")


def test_a_copy_that_arrives_damaged_is_not_published(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(source: str, target: str, **options: Any) -> str:
        copied = copy2(source, target, **options)
        if Path(source).name == "hand1000.json":
            Path(target).write_text("{")
        return copied

    copy2 = shutil.copy2
    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, damaged, False, False))
    with pytest.raises(Unfinished, match="differs from the model"):
        publish(copy, tmp_path / "public")
    assert not (tmp_path / "public").exists()


def test_the_card_names_base_dataset_training_and_terms(copy: Path, tmp_path: Path) -> None:
    about = json.loads((copy / "hand1000.json").read_text())
    about["training"]["base"] = {"place": "hf:CompVis/stable-diffusion-v1-4", "revision": "abc123"}
    about["training"]["dataset"] = {"place": "hf:me/hands", "revision": "def456"}
    (copy / "hand1000.json").write_text(json.dumps(sealed(about)))
    (tmp_path / "metrics.json").write_text(json.dumps({"FID-H": 12.5}))
    publish(copy, tmp_path / "public", metrics=tmp_path / "metrics.json")
    card = (tmp_path / "public" / "README.md").read_text()
    for part in (
        "license: creativeml-openrail-m", "base_model:\n- CompVis/stable-diffusion-v1-4", "datasets:\n- me/hands",
        "`abc123`", "`def456`", "| preset | smoke |", "attachment A", "HaGRID", "| FID-H | 12.5 |", "trust_remote_code",
    ):  # fmt: skip
        assert part in card, part
    assert "Llama" not in card


def test_llama_3s_naming_rule_is_kept(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _llama3(copy)
    with pytest.raises(UserError, match="use hf:me/Llama-3-call"):
        publish(copy, HubName("me/call"))
    publish(copy, tmp_path / "call")
    assert "begins with 'Llama 3'" in capsys.readouterr().err
    assert "Built with Meta Llama 3" in (tmp_path / "call" / "README.md").read_text()


def test_the_scores_of_evaluate_become_the_cards_table(copy: Path, tmp_path: Path) -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"unit": "images", "n": {"real": 20, "fake": 30}, "fake": {**share, "value": 0.75}, "base": share}
    side = {"excluded": {"is not an image": ["a.png"]}, "black": 2}
    evaluation = {
        "format": 1, "gesture": "call", "preparation": "short side to 64 px", "real": side, "fake": side,
        "metrics": {"hand-found rate": {"standard": entry}, "FID": {"standard": {"not_computed": "no weights"}}},
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    publish(copy, tmp_path / "public", metrics=tmp_path / "evaluation.json")
    card = (tmp_path / "public" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("| hand-found rate"))
    assert "0.75" in line
    assert "20, 30 images" in line
    assert "not computed: no weights" in card
    assert "2 images are black" in card
    assert "short side to 64 px" in card


def test_metrics_in_another_format_are_one_sentence(copy: Path, tmp_path: Path) -> None:
    for content in ("{", "[1]", '{"a": [1]}'):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(UserError, match="--metrics"):
            publish(copy, tmp_path / "public", metrics=tmp_path / "metrics.json")


class FakeHub:
    """A Hub that records the calls, and damages the file that `damage` names."""

    def __init__(self, damage: str = "") -> None:
        self.calls: list[tuple] = []
        self.damage = damage

    def create_repo(self, repo: str, **options: object) -> None:
        self.calls.append(("create_repo", repo, options))

    def create_branch(self, repo: str, **options: object) -> None:
        self.calls.append(("create_branch", repo, options))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> object:
        from types import SimpleNamespace

        self.calls.append(("upload_folder", repo_id, options))
        self.folder = folder_path
        return SimpleNamespace(oid="c0ffee")

    def list_repo_tree(self, repo: str, **options: object) -> list:
        import hashlib
        from types import SimpleNamespace

        self.calls.append(("list_repo_tree", repo, options))
        entries = []
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file():
                continue
            data = path.read_bytes() + (b"!" if path.name == self.damage else b"")
            large = path.suffix == ".safetensors"
            lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()) if large else None
            blob = hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data).hexdigest()
            entries.append(SimpleNamespace(path=path.relative_to(self.folder).as_posix(), lfs=lfs, blob_id=blob))
        return entries


def test_the_hub_gets_the_folder_and_is_read_back(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert publish(copy, HubName("me/call", "v1"), private=True) == "hf:me/call@c0ffee"
    assert [call[0] for call in hub.calls] == ["create_repo", "create_branch", "upload_folder", "list_repo_tree"]
    assert hub.calls[0][2] == {"private": True, "exist_ok": True}
    assert hub.calls[2][2]["revision"] == "v1"
    assert hub.calls[3][2]["revision"] == "c0ffee"


@pytest.mark.parametrize("name", ["model.safetensors", "hand1000.json"])
def test_a_file_that_arrives_damaged_on_the_hub_is_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(damage=name))
    with pytest.raises(Unfinished, match=f"{name} is damaged"):
        publish(copy, HubName("me/call"))
