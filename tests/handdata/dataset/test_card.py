"""The description of a dataset is true, complete, and readable by the programs that read it."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from handdata.builds.build import Build
from handdata.dataset import card
from handdata.markdown import markdown_table
from handdata.rows.schema import COLUMNS, REASONS, features
from handdata.stages import assemble
from tests.finished import QUIET, finished_build, recipe


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    build = finished_build(
        tmp_path_factory.mktemp("card") / "build", failed=dict.fromkeys(range(0, 40, 6), ("texts", "image-corrupt"))
    )
    assemble.run(build, Build.open(build).recipe, QUIET)
    return build / "dataset"


@pytest.fixture(scope="module")
def front(dataset) -> dict:
    return yaml.safe_load((dataset / "README.md").read_text().split("---\n")[1])


def test_there_is_one_configuration_per_gesture_and_all_is_the_default(front):
    assert [entry["config_name"] for entry in front["configs"]] == ["all", "call", "ok"]
    assert [entry.get("default", False) for entry in front["configs"]] == [True, False, False]


def test_counts_in_the_metadata_are_those_of_the_files(dataset, front):
    for info in front["dataset_info"]:
        folder = "*" if info["config_name"] == "all" else info["config_name"]
        for split in info["splits"]:
            files = list(dataset.glob(f"data/{folder}/{split['name']}-*.parquet"))
            assert split["num_examples"] == sum(pq.read_metadata(file).num_rows for file in files)
            assert split["num_bytes"] == sum(file.stat().st_size for file in files)


def test_shortfalls_and_reasons_are_spelled_out(dataset):
    text = (dataset / "README.md").read_text()
    assert re.search(r"- call, train: \d of 6", text) and REASONS["image-corrupt"] in text


def test_every_column_is_explained_and_nothing_is_left_to_fill_in(dataset):
    text = (dataset / "README.md").read_text()
    assert list(COLUMNS) == list(features(["call"]))
    assert all(f"| `{name}` | {column.meaning} |" in text for name, column in COLUMNS.items())
    assert "$" not in text and "[More Information Needed]" not in text and str(dataset.parent) not in text


def test_the_licence_is_that_of_the_source(dataset, front, tmp_path):
    assert front["license"] == "apache-2.0"
    build = finished_build(tmp_path / "photos", {"train": 1, "validation": 0, "test": 0}, kind="folder")
    assemble.run(build, Build.open(build).recipe, QUIET)
    text = (build / "dataset/README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other" and front["license_name"] == "hagrid" and front["license_link"].endswith(".pdf")
    assert "not a Creative Commons licence" in text and "Kapitanov" in text and "guesses of age" in text


def test_the_pictures_are_small_and_whole(dataset):
    for name in ("contact_sheet.jpg", "statistics.png"):
        path = dataset / "figures" / name
        with Image.open(path) as image:
            image.load()
            assert image.width > 600
        assert path.stat().st_size < 400_000


def test_a_cell_cannot_break_its_table():
    assert markdown_table(["a", "b"], [["x|y\nz", 1200]]).splitlines()[1:] == ["|---|---:|", "| x\\|y z | 1,200 |"]


def test_croissant_is_valid_and_reads_every_row(dataset):
    mlcroissant = pytest.importorskip("mlcroissant")
    description = mlcroissant.Dataset(jsonld=dataset / "croissant.json")
    assert not description.metadata.ctx.issues.errors
    text = json.loads((dataset / "croissant.json").read_text())
    rai = {key for key in text if key.startswith("rai:")}
    assert {"rai:dataCollection", "rai:dataLimitations", "rai:personalSensitiveInformation", "rai:dataUseCases"} <= rai
    pytest.importorskip("tifffile", reason="mlcroissant decodes any image only if tifffile is there")
    rows = list(description.records("rows"))
    files = list((dataset / "data").rglob("*.parquet"))
    assert len(rows) == sum(pq.read_metadata(file).num_rows for file in files)
    assert rows[0]["rows/image"].size and rows[0]["rows/text"]


def test_a_size_category_holds_its_count():
    assert [card._size_category(rows) for rows in (1, 999, 1000, 12_600, 10**6)] == [
        "n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M",
    ]  # fmt: skip
    assert recipe().name == "drawn"
