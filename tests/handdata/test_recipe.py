"""Recipes: strict keys and types, and a text form that reads back to the same recipe."""

import dataclasses
import inspect
import re

import pytest
import tyro

from handdata import recipe
from handdata.errors import UserError
from handdata.recipe import SelectOptions, SourceOptions


def write(tmp_path, text: str):
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_file_becomes_dataclasses_with_the_papers_defaults(tmp_path):
    text = 'name = "two"\n[select]\ngestures = ["call", "ok"]\ntrain = 20\n[source]\nimages = "a.zip"\n'
    loaded = recipe.load(write(tmp_path, text))
    assert loaded.select == SelectOptions(gestures=("call", "ok"), train=20)
    assert loaded.select.test == 1000
    assert loaded.source == SourceOptions(images=(str(tmp_path / "a.zip"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\n[select]\ntrian = 3\n', "unknown key 'trian': did you mean 'train'"),
        ('name = "x"\nselct = 3\n', "unknown key 'selct': did you mean 'select'"),
        ('name = "x"\n[select]\ntrain = "many"\n', "key 'train' is 'many', it must be a whole number"),
        ('name = "x"\n[select]\ntrain = true\n', "key 'train' is True, it must be a whole number"),
        ('name = "x"\n[select]\nspare = "a"\n', "must be a number"),
        ('name = "x"\n[select]\ngestures = 4\n', "must be a list"),
        ('name = "x"\nselect = 3\n', "must be a table"),
        ("[select]\ntrain = 3\n", "lacks the key 'name'"),
        ("name = \n", "is not valid TOML"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        recipe.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_text_form_reads_back_to_an_equal_recipe(tmp_path):
    name = 'a "name" \\ with ü'
    original = recipe.Recipe(name, source=SourceOptions(images=("/a", "/b")), select=SelectOptions(spare=0.25))
    assert recipe.load(write(tmp_path, recipe.dump(original))) == original


def test_relative_paths_start_at_the_recipe_file_and_urls_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "captioner").mkdir(parents=True)
    (tmp_path / "recipes" / "prompt.txt").write_text("rewrite")
    text = 'name = "x"\nsource = {annotations = "a.zip", images = ["https://host/b.zip", "hagridv2-512", "../c.zip"]}\n'
    text += 'caption = {model = "captioner"}\nrewrite = {model = "smollm2-135m", prompt = "prompt.txt"}\n'
    loaded = recipe.load(write(tmp_path / "recipes", text))
    folder = tmp_path / "recipes"
    assert loaded.source.annotations == (f"{folder}/a.zip",)
    assert loaded.source.images == ("https://host/b.zip", "hagridv2-512", f"{folder}/../c.zip")
    assert loaded.caption.model == str(folder / "captioner")
    assert (loaded.rewrite.model, loaded.rewrite.prompt) == ("smollm2-135m", str(folder / "prompt.txt"))
    assert recipe.override(loaded, source={"images": "d.zip"}).source.images == (str(tmp_path / "d.zip"),)


def test_overriding_is_as_strict_as_a_file_and_keeps_the_other_keys():
    mini = recipe.load(recipe.find("mini"))
    changed = recipe.override(
        mini, select={"gestures": ("call",), "train": 3}, check=recipe.CheckOptions(0.5), name="y"
    )
    assert changed.select == dataclasses.replace(mini.select, gestures=("call",), train=3)
    assert (changed.check.in_box, changed.name, changed.render) == (0.5, "y", mini.render)
    with pytest.raises(UserError, match=r"unknown key 'trian': did you mean 'train'"):
        recipe.override(mini, select={"trian": 3})
    nested = recipe.override(
        recipe.override(mini, resources={"caption": {"gpus": 2}}), resources={"facts": {"cpus": 3}}
    )
    assert (nested.resources.caption.gpus, nested.resources.facts.cpus) == (2, 3)
    with pytest.raises(UserError, match=r"unknown key 'selct': did you mean 'select'"):
        recipe.override(mini, selct={"train": 3})


def test_a_gesture_that_is_named_twice_counts_once(tmp_path):
    text = 'name = "two"\n[select]\ngestures = ["ok", "call", "ok"]\n[render]\ngestures = ["call", "call"]\n'
    loaded = recipe.load(write(tmp_path, text))
    assert loaded.select.gestures == ("ok", "call") and loaded.render.gestures == ("call",)
    assert recipe.override(loaded, select={"gestures": ("call", "call")}).select.gestures == ("call",)


def test_every_field_of_every_table_is_a_flag_whose_help_is_its_comment():
    text = " ".join(tyro.extras.get_parser(recipe.Recipe).format_help().replace("│", " ").split())
    tables = [(field.name, field.default_factory) for field in dataclasses.fields(recipe.Recipe)]
    for name, table in tables:  # grows while it is read
        if not dataclasses.is_dataclass(table):
            continue
        source = inspect.getsource(table)
        for field in dataclasses.fields(table):
            if dataclasses.is_dataclass(field.default_factory):
                tables.append((f"{name}.{field.name}", field.default_factory))
                continue
            comment = re.search(rf"^    # (.*)\n    {field.name}: |^    {field.name}: .*  # (.*)$", source, re.M)
            flag, help_text = f"--{name}.{field.name.replace('_', '-')}", comment[1] or comment[2]
            assert re.search(rf"{re.escape(flag)}\b.{{0,120}}? {re.escape(help_text[:30])}", text), flag
    assert ("resources.check", recipe.StageResources) in tables


def test_a_shipped_recipe_is_found_by_name_and_loads():
    for name in recipe.shipped():
        assert recipe.load(recipe.find(name)).name == name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nowhere.toml", "recipe file nowhere.toml does not exist"),
        ("folder/none", "recipe file folder/none does not exist"),
        ("hand100", "'hand100' is neither a recipe file .* nor a shipped recipe .*hand1000"),
    ],
)
def test_an_unknown_recipe_is_named_in_one_sentence(wrong, message):
    with pytest.raises(UserError, match=message):
        recipe.find(wrong)
