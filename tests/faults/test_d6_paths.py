"""Paths are taken literally, and a run or a build stands for the model or the dataset in it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from handdata.assets import cache_folder
from handdata.builds.build import Build
from handdata.dataset.evaluate import open_dataset
from handdata.errors import UserError
from handdata.huggingface import HubName, parse_dataset, parse_model
from handdata.recipe import Recipe, SourceOptions, dump, load
from handdata.recipe.paths import absolute_place
from handdata.rows.published import open_published
from handdata.sources.places import resolve
from handdata.stages import assemble, select
from handtrain.data import dataset as training
from handtrain.data.image_folder import images_of, split_of
from handtrain.evaluation.evaluate import evaluate
from tests.finished import QUIET, finished_build
from tests.handtrain.tiny import write_dataset

ODD_NAMES = ["hands[1]", "a::b", "call*", "what?", "{gesture}", "{}", "50%", "a b", "hf:x", "[", "**", "~x", "c:d", "é"]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    (tmp_path / "cache").mkdir()
    for file in (path for path in cache_folder().glob("*") if path.is_file()):  # of models, which `assemble` reads
        (tmp_path / "cache" / file.name).symlink_to(file.absolute())
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def _dataset(root: Path, folder: Path, rows: int) -> Path:
    """Write a dataset elsewhere and move it: the writer, too, reads `::` in a path as something else."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(write_dataset(root / "made", rows, 1), folder))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_d6_a_dataset_in_a_folder_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    folder = _dataset(tmp_path, tmp_path / name / "hands", 2)
    rows = training.load(parse_dataset(str(folder), "--dataset"), "call").rows
    assert [row.image_id for row in rows] == ["train-000", "train-001"]
    assert training.splits_of(folder, "call") == ["train", "validation"]


@pytest.mark.parametrize("name", ["hands[1]", "a::b", "*"])
def test_d6_the_measures_open_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = _dataset(tmp_path, tmp_path / name, 2)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("config_name: call", "config_name: all"))
    assert {split: len(rows) for split, rows in open_dataset(folder).items()} == {"train": 2, "validation": 1}
    shutil.rmtree(folder)
    _dataset(tmp_path, folder, 3)
    card.write_text(card.read_text().replace("config_name: call", "config_name: all"))
    assert len(open_dataset(folder)["train"]) == 3, "a folder that has changed is read again"


@pytest.mark.parametrize("pattern", ["/etc/*", "../secret/*", "https://x/y.parquet", "hf://datasets/a/b/*", "", 3])
def test_d6_a_card_names_files_in_its_own_folder_only(tmp_path: Path, pattern: object) -> None:
    entry = {"config_name": "call", "data_files": [{"split": "train", "path": pattern}]}
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps([entry])}\n---\n")
    with pytest.raises(UserError, match="does not contain a dataset"):
        open_published(tmp_path, "--dataset")


@pytest.mark.parametrize(
    "files",
    ["data/call/train-*", ["data/call/train-*"], {"train": "data/call/train-*"}, {"train": ["data/**/train-*"]}],
)
def test_d6_every_form_of_a_card_that_the_hub_knows_is_read(tmp_path: Path, files: object) -> None:
    folder = write_dataset(tmp_path / "hands", 2, 1)
    (folder / "README.md").write_text(
        f"---\nconfigs: {json.dumps([{'config_name': 'call', 'data_files': files}])}\n---\n"
    )
    assert len(training.load(folder, "call").rows) == 2


@pytest.mark.parametrize(
    "card", ["", "# title", "---\n---", "---\nconfigs: 3\n---", "---\n&a [*a]\n---", "---\n[\n---", "---"]
)
def test_d6_a_card_without_configurations_is_one_sentence(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(UserError, match="does not contain a dataset") as caught:
        training.load(tmp_path, "call")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["{gesture}", "x{gesture}y/{gesture}", "{{gesture}}", "{other}", "}{"])
def test_d6_braces_in_the_name_of_a_build_are_literal(tmp_path: Path, name: str) -> None:
    recipe = Recipe(name="drawn", source=SourceOptions(kind="render"))
    tables = {
        "select": {"gestures": ["call", "ok"], "train": 1, "validation": 0, "test": 0, "spare": 0.0},
        "render": {"train": 1, "validation": 0, "test": 0, "size": 64, "oddities": False},
    }
    build = Build.start(recipe, tmp_path / name, **tables)
    assert select.run(build.path, build.recipe, QUIET).rows == 2
    assert {path.name for path in (tmp_path / name / "source").glob("*.zip")} == {
        "annotations.zip",
        "call.zip",
        "ok.zip",
    }


@pytest.mark.parametrize("name", ["plain", "{gesture}", "a{gesture}b", "{{gesture}}"])
def test_d6_a_recipe_in_a_folder_with_braces_names_its_neighbours(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    options = SourceOptions(annotations=("a.zip",), images=("{gesture}/all.zip", "./x.zip"))
    (folder / "recipe.toml").write_text(dump(Recipe(name="r", source=options)))
    (folder / "again.toml").write_text(dump(load(folder / "recipe.toml")))
    for file in ("recipe.toml", "again.toml"):
        sources = resolve(load(folder / file).source, ("call", "ok"), tmp_path)
        assert sources.annotations.places == (str(folder / "a.zip"),)
        expected = [((str(folder / gesture / "all.zip"), str(folder / "x.zip")), gesture) for gesture in ("call", "ok")]
        assert [(archive.places, archive.gesture) for archive in sources.images] == expected


def test_d6_places_that_are_absolute_or_remote_keep_the_placeholder() -> None:
    for place in ("/data/{gesture}.zip", "https://host/{gesture}.zip", "hagridv2-full"):
        assert absolute_place(place, Path("/x/{gesture}")) == place


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("name", ["10:30", "photos:test", "hf:me", ":x", "x:", "a:b:c"])
def test_d6_an_existing_path_with_a_colon_is_that_path(here: Path, name: str) -> None:
    (here / name).mkdir()
    assert split_of(name, "--real") is None
    shutil.rmtree(here / name)
    _dataset(here, here / name, 1)
    assert split_of(f"./{name}:test", "--real") == (Path(f"./{name}"), "test")


def test_d6_a_dataset_with_its_split_is_both(here: Path) -> None:
    write_dataset(here / "photos:2024", 1, 1)
    assert split_of("photos:2024:train", "--real") == (Path("photos:2024"), "train")
    assert split_of("hf:me/hands@v1:test", "--real") == (HubName("me/hands", "v1"), "test")
    with pytest.raises(UserError, match="write hf:me/hands:test"):
        split_of("hf:me/hands", "--real")
    assert split_of("x" * 5000, "--real") is None


def test_d6_a_folder_with_a_colon_is_evaluated(here: Path) -> None:
    for side in ("real:test", "fake:1"):
        (here / side).mkdir()
        for number in range(2):
            Image.new("RGB", (16, 16), (40 * number, 90, 10)).save(here / side / f"{number}.png")
    scores = evaluate(real="real:test", fake="fake:1", clip="none", variants="standard", device="cpu")
    assert scores.record["real"]["images"] == scores.record["fake"]["images"] == 2


def _run(folder: Path) -> Path:
    folder.mkdir()
    for name in ("run.json", "log.jsonl"):
        (folder / name).write_text("{}\n")
    return folder


def test_d6_a_run_stands_for_its_model(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with pytest.raises(UserError, match="is a run without a model: finish it"):
        parse_model(str(run), "--model")
    (run / "model").mkdir()
    (run / "model/model_index.json").write_text("{}")
    assert parse_model(str(run), "--model") == run / "model" == parse_model(str(run / "model"), "--model")


def test_d6_a_build_stands_for_its_dataset(tmp_path: Path) -> None:
    folder = finished_build(tmp_path / "build", {"train": 1, "validation": 0, "test": 1})
    with pytest.raises(UserError, match="is a build without a dataset: run `handdata assemble"):
        open_dataset(folder)
    assemble.run(folder, Build.open(folder).recipe, QUIET)
    assert len(open_dataset(folder)["train"]) == len(open_dataset(folder / "dataset")["train"]) == 2
    assert training.load(parse_dataset(str(folder), "--dataset"), "ok").rows
    assert split_of(f"{folder}:test", "--real") == (folder / "dataset", "test")


@pytest.mark.parametrize(("option", "name"), [("--fake", "tuned"), ("--base", "base")])
def test_d6_a_run_stands_for_its_images_and_not_for_its_samples(tmp_path: Path, option: str, name: str) -> None:
    run = _run(tmp_path / "run")
    for folder in ("samples", "images/other"):
        (run / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(run / folder / "0.png")
    with pytest.raises(UserError, match=rf"^{option} .* is a run: name a folder of its images"):
        images_of(run, option, name)
    (run / "images" / name).mkdir()
    assert images_of(run, option, name) == run / "images" / name
    assert images_of(run / "samples", option, name) == run / "samples"


def test_d6_a_dataset_without_a_split_is_not_taken_for_a_folder_of_images(tmp_path: Path) -> None:
    build = finished_build(tmp_path / "build", {"train": 1, "validation": 0, "test": 1})
    for folder in (write_dataset(tmp_path / "hands", 1, 1), build):
        with pytest.raises(UserError, match=rf"^--real {os.fspath(folder)} is a dataset: name its images by a split"):
            images_of(folder, "--real")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://huggingface.co/datasets/me/hands", "hf:me/hands"),
        ("https://huggingface.co/datasets/me/hands/tree/v2", "hf:me/hands@v2"),
        ("https://hf.co/me/model/", "hf:me/model"),
    ],
)
def test_d6_the_page_of_a_repository_is_that_repository(address: str, name: str) -> None:
    assert str(parse_dataset(address, "--dataset")) == name
    assert split_of(f"{address.rstrip('/')}:test", "--real") == (parse_dataset(name, "--real"), "test")


@pytest.mark.parametrize("address", ["https://example.org/me/hands", "https://huggingface.co/me", "http://["])
def test_d6_another_address_is_not_a_repository(address: str) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        parse_dataset(address, "--dataset")
