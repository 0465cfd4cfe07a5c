"""`USER/NAME` without `hf:` could mean the Hub: a new folder of that form is refused by both programs."""

from pathlib import Path

import pytest

from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.huggingface import HubName, parse_new
from handtrain.publish import publish
from tests.finished import finished_build

ADDRESSES = [
    "me/hands", "some-team/call_v2", "hands/v1.5/", "me//hands", "me/hands@v2", "HF:me/hands", "hf://me/hands",
    "https://huggingface.co/datasets/me/hands", "huggingface.co/me/hands", "http://hf.co/me/hands",
]  # fmt: skip
FOLDERS = ["./me/hands", "../me/hands", "hands", "one/two/three", "/me/hands", ".cache/hands", "größe/hände", "a b/c"]


@pytest.mark.parametrize("to", ADDRESSES)
def test_a9_a_name_that_could_be_on_the_hub_is_refused(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--to .*hf:") as caught:
        parse_new(to, "--to")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", FOLDERS)
def test_a9_other_paths_are_folders(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_new(to, "--to") == Path(to)


def test_a9_a_path_object_is_a_folder_and_a_hub_name_is_itself() -> None:
    assert parse_new(Path("me/hands"), "--to") == Path("me/hands")
    assert parse_new("hf:me/hands", "--to") == HubName("me/hands")


def test_a9_an_existing_folder_is_used_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "hands").mkdir(parents=True)
    assert parse_new("me/hands", "--to") == Path("me/hands")
    assert "me/hands is a folder of this machine; hf:me/hands would be the Hub" in capsys.readouterr().err


def test_a9_both_programs_refuse_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build.open(finished_build(tmp_path / "build", {"train": 1, "validation": 0, "test": 0}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for name in ("hand1000.json", "model_index.json"):
        (tmp_path / "model" / name).write_text("{}")
    for work in (lambda: build.publish("team/hands"), lambda: publish(Path("model"), "team/model")):
        with pytest.raises(UserError, match=r"write hf:team/\w+ or \./team/\w+"):
            work()
    assert not (tmp_path / "team").exists()
