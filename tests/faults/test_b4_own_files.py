"""Publishing to a folder replaces what the last `publish` wrote there, and nothing else, in both programs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.stages import assemble
from handtrain.method.gesture import NUMBERS
from handtrain.publish import publish
from tests.finished import QUIET, finished_build

OWN = ["notes.txt", "unet/mine.json", ".git/config", "pictures/hand.png", "data/call/mine.parquet"]
ABOUT = {
    "gesture": "call", "gesture_phrase": "making phone call hand gesture", "lam": 0.7, "crop": "center",
    "resolution": 16, "fusion": {"kind": "none"}, "feature": {"kind": "absolute", "values": [0.0] * NUMBERS},
    "training": {"imported": "a.ckpt"},
}  # fmt: skip


def model(folder: Path) -> Path:
    """Write the files of a model folder that `publish` reads."""
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    (folder / "hand1000.json").write_text(json.dumps(ABOUT))
    return folder


@pytest.fixture(scope="module")
def publishers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Path], Any]]:
    root = tmp_path_factory.mktemp("publishers")
    build = finished_build(root / "build", {"train": 1, "validation": 0, "test": 0})
    assemble.run(build, Build.open(build).recipe, QUIET)
    trained = model(root / "model")
    return {"handdata": Build.open(build).publish, "handtrain": lambda to: publish(trained, to)}


@pytest.mark.parametrize("program", ["handdata", "handtrain"])
@pytest.mark.parametrize("own", OWN)
def test_b4_a_file_of_the_user_stays_and_is_named(
    publishers: dict[str, Callable[[Path], Any]], tmp_path: Path, program: str, own: str
) -> None:
    to = tmp_path / "public"
    publishers[program](to)
    (to / own).parent.mkdir(parents=True, exist_ok=True)
    (to / own).write_text("mine")
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"--to .* holds '{own}', which publish did not write"):
        publishers[program](to)
    assert {path: path.read_bytes() for path in to.rglob("*") if path.is_file()} == before
    (to / own).unlink()
    publishers[program](to)


@pytest.mark.parametrize("program", ["handdata", "handtrain"])
@pytest.mark.parametrize("listing", ["{", '{"format": "another", "files": {"notes.txt": {}}}', "[]"])
def test_b4_a_list_that_publish_did_not_write_protects_everything(
    publishers: dict[str, Callable[[Path], Any]], tmp_path: Path, program: str, listing: str
) -> None:
    to = tmp_path / "public"
    to.mkdir()
    (to / "notes.txt").write_text("mine")
    (to / "checksums.json").write_text(listing)
    with pytest.raises(UserError):
        publishers[program](to)
    assert (to / "notes.txt").read_text() == "mine" and (to / "checksums.json").read_text() == listing


def test_b4_files_of_the_last_version_do_not_stay(tmp_path: Path) -> None:
    trained = model(tmp_path / "model")
    (trained / "fusion.safetensors").write_text("weights")
    publish(trained, tmp_path / "public")
    (trained / "fusion.safetensors").unlink()
    publish(trained, tmp_path / "public")
    assert not (tmp_path / "public" / "fusion.safetensors").exists()
    assert (tmp_path / "public" / "unet" / "config.json").is_file()


def test_b4_a_model_published_before_there_was_a_list_is_replaced(tmp_path: Path) -> None:
    trained = model(tmp_path / "model")
    publish(trained, tmp_path / "public")
    (tmp_path / "public" / "checksums.json").unlink()
    publish(trained, tmp_path / "public")
    assert (tmp_path / "public" / "checksums.json").is_file()


def test_b4_a_model_is_not_published_into_itself(tmp_path: Path) -> None:
    trained = model(tmp_path / "model")
    before = shutil.copytree(trained, tmp_path / "before")
    for to in (trained, trained / "public"):
        with pytest.raises(UserError, match="is the model itself or inside it"):
            publish(trained, to)
    assert {path.name for path in trained.rglob("*")} - {path.name for path in before.rglob("*")} <= {
        "README.md",
        "pipeline.py",
    }
