"""The published pairs are those that were drawn, described truthfully, and read by the programs that read datasets."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from handdata.cli.flags import Publish
from handdata.dataset import pairs
from handdata.dataset.checksums import damaged
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world import render

OPTIONS = RenderOptions(
    ("call",), train=1, validation=0, test=1, size=64, seed=3, pairs=True, natural=1.0, flaw_count=1, second_hand=0.0,
    oddities=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    render.draw(OPTIONS, folder / "one", progress=False)
    render.draw(replace(OPTIONS, train=0, size=48, seed=4, natural=0.0, flaw_count=2), folder / "two", progress=False)
    return folder


@pytest.fixture(scope="module")
def published(drawn) -> Path:
    place = drawn.parent / f"{drawn.name}-published"
    assert Publish(drawn, str(place))() == 0
    return place


def truth(folder):
    return {line["image_id"]: line for line in map(json.loads, (folder / "truth.jsonl").read_text().splitlines())}


def test_every_row_is_a_pair_with_its_pictures_and_its_truth(drawn, published):
    from datasets import Image, load_dataset

    whole = load_dataset(str(published), "one", cache_dir=str(published.parent / "cache"))
    assert {split: len(rows) for split, rows in whole.items()} == {"train": 1, "test": 1}
    known = truth(drawn / "one")
    with zipfile.ZipFile(drawn / "one" / "call.zip") as archive:
        for rows in whole.values():
            row = rows.cast_column("right", Image(decode=False)).cast_column("wrong", Image(decode=False))[0]
            right, wrong = known[row["right_id"]], known[row["wrong_id"]]
            assert (right["kind"], wrong["kind"], wrong["pair"]) == ("whole", "wrong", row["right_id"])
            for side, told in (("right", right), ("wrong", wrong)):
                assert row[side]["bytes"] == archive.read(f"call/{told['image_id']}.jpg")
                assert row[f"{side}_fingers"] == told["hands"][0]["fingers"]
                joints = np.array(told["hands"][0]["joints_2d"])
                assert np.array(row[f"{side}_joints_2d"]) == pytest.approx(joints, abs=1e-6)
            assert row["flaws"] == wrong["hands"][0]["flaws"] and len(row["flaws"]) == 1
            assert row["person"] == wrong["user_id"] and row["natural"] is True and row["size"] == 64
    (several,) = load_dataset(str(published), "two", cache_dir=str(published.parent / "cache"))["test"]
    assert len(several["flaws"]) == 2 and not several["natural"] and several["right"].size == (48, 48)


def test_the_same_pairs_give_the_same_bytes_whole_files_and_a_configuration_for_a_single_folder(drawn, published):
    assert not damaged(published)
    again = drawn.parent / f"{drawn.name}-again"
    assert Publish(drawn / "two", str(again))() == 0
    file = "data/two/test-00000-of-00001.parquet"
    assert [path.name for path in (again / "data").iterdir()] == ["two"]
    assert (again / file).read_bytes() == (published / file).read_bytes()


def test_the_card_states_counts_flaws_and_every_column(drawn, published):
    text = (published / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert [entry["config_name"] for entry in front["configs"]] == ["all", "one", "two"]
    counts = {info["config_name"]: sum(s["num_examples"] for s in info["splits"]) for info in front["dataset_info"]}
    assert counts == {"all": 3, "one": 2, "two": 1} and front["license"] == "apache-2.0"
    assert all(f"| `{name}` | {column.meaning} |" in text for name, column in pairs.COLUMNS.items())
    assert "| one | 1 | 0 | 1 | 64 | 1 | 100 | 3 |" in text and "$" not in text and "USER/NAME" not in text
    flaws = [flaw for line in truth(drawn / "two").values() for flaw in line["hands"][0]["flaws"]]
    assert len(flaws) == 2 and all(f"| {flaw} |" in text for flaw in flaws)
    assert (published / "figures" / "contact_sheet.jpg").stat().st_size > 1000


def test_croissant_is_valid_and_reads_every_pair(published):
    mlcroissant = pytest.importorskip("mlcroissant")
    description = mlcroissant.Dataset(jsonld=published / "croissant.json")
    assert not description.metadata.ctx.issues.errors
    pytest.importorskip("tifffile", reason="mlcroissant decodes any image only if tifffile is there")
    rows = list(description.records("rows"))
    assert len(rows) == 3 and rows[0]["rows/right"].size and rows[0]["rows/wrong_id"]


def test_mistakes_with_pairs_are_one_sentence(drawn, tmp_path):
    (tmp_path / "none").mkdir()
    options = replace(OPTIONS, pairs=False, train=0)
    render.draw(options, tmp_path / "none", progress=False)
    with pytest.raises(UserError, match="has no pairs: draw them with `handdata render --pairs"):
        Publish(tmp_path / "none", str(tmp_path / "out"))()
    (tmp_path / "odd name").symlink_to(drawn / "one")
    with pytest.raises(UserError, match="its name becomes a configuration's"):
        Publish(tmp_path / "odd name", str(tmp_path / "out"))()
    (tmp_path / "both").mkdir()
    for name in ("a", "b"):
        (tmp_path / "both" / name).symlink_to(drawn / "one")
    with pytest.raises(UserError, match="the same seed and so the same ids"):
        Publish(tmp_path / "both", str(tmp_path / "out"))()
    with pytest.raises(UserError, match="is not a build folder"):
        Publish(tmp_path / "both" / "a" / "nowhere", str(tmp_path / "out"))()
    changed = tmp_path / "none" / "render.json"
    changed.write_text(changed.read_text().replace('"pairs": false', '"pairs": true'))
    (tmp_path / "none" / "call.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"call\.zip was changed since it was drawn"):
        Publish(tmp_path / "none", str(tmp_path / "out"))()
