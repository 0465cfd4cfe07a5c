"""Text files of other encodings and numbers out of range are one sentence with exit code 2."""

import dataclasses
import json
import typing

import pytest

from handdata import recipe
from handdata.cli import COMMANDS
from handdata.cli.program import command_class, main
from handdata.errors import UserError
from handdata.limits.numbers import RANGES, fault_of, require_ranges
from handdata.recipe import RewriteOptions
from handdata.stages.rewrite import prompt_text, template_text
from handdata.texts.chat import read_prompt
from handdata.world.gesture_file import DrawnGesture
from handtrain.cli import COMMANDS as TRAINER_COMMANDS
from handtrain.generation.generate import _prompts
from handtrain.options import EvaluateOptions, GenerateOptions, changed
from handtrain.presets import RunOptions, TrainOptions, check
from handtrain.publish import _metrics

WRONG = {
    "latin": "name = 'é'".encode("cp1252"),
    "utf-16": "name = 'a'".encode("utf-16"),
    "utf-16 without a mark": "name = 'a'".encode("utf-16-le"),
    "utf-32": "name = 'a'".encode("utf-32"),
    "zeros": bytes(100),
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("kind", WRONG)
def test_d3_another_encoding_is_one_sentence(kind, tmp_path):
    path = tmp_path / "my.toml"
    path.write_bytes(WRONG[kind])
    for read in (
        lambda: recipe.load(path),
        lambda: prompt_text(RewriteOptions(prompt=str(path))),
        lambda: template_text(RewriteOptions(template=str(path))),
        lambda: _prompts(path, None, None, 0),
        lambda: _metrics(path),
    ):
        with pytest.raises(UserError, match=r"my\.toml is not UTF-8 text") as error:
            read()
        assert "\n" not in str(error.value)


def test_d3_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('name = "ü"\r\n', encoding="utf-8-sig")
    assert recipe.load(path).name == "ü"
    path.write_text("first\r\nsecond \u2028 half\rthird\n\n", encoding="utf-8-sig")
    assert [text for _, text in _prompts(path, None, None, 0)[0]] == ["first", "second \u2028 half", "third"]
    path.write_text(json.dumps({"FID": 1}), encoding="utf-8-sig")
    assert "FID" in _metrics(path)


@pytest.mark.parametrize(
    "text",
    [
        "name = 1e", 'name = "a"\nselect = {train = ' + "9" * 5000 + "}", "name = " + "[" * 5000,
        'name = "a"\n[select]\ngestures = ["call", "all"]', 'name = "a"\n[render]\ngestures = ["nothing"]',
        'name = "a"\n[select]\nseed = -1', 'name = "a"\n[select]\nseed = 9223372036854775808',
        'name = "a"\n[landmarks]\ndetection = nan', 'name = "a"\n[rewrite]\ntimeout = inf',
        'name = "a"\n[caption]\nbatch = 0', 'name = "a"\n[assemble]\nnear_duplicate = 65',
    ],
)  # fmt: skip
def test_d3_a_recipe_with_a_wrong_value_is_one_sentence(text, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UserError):
        recipe.load(path)


def test_d3_a_name_as_long_as_no_file_is_a_name(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(f'name = "a"\n[rewrite]\nmodel = "{"m" * 5000}"\n[source]\nimages = "~nobody-of-this-name/a.zip"\n')
    assert recipe.load(path).rewrite.model == "m" * 5000


@pytest.mark.parametrize("braces", ["{caption} {phrase} {", "{caption} {phrase} {0!r}", "{caption} {phrase:>9999}"])
def test_d3_braces_in_a_prompt_are_one_sentence(braces):
    with pytest.raises(UserError, match="no other braces"):
        read_prompt(f"[system]\na\n[example]\na\nb\nc\n[ask]\n{braces}\n[retry]\n{{problem}} {{phrase}}\n", "my.txt")


TRAIN = ["train", "--dataset", ".", "--base", ".", "--gesture", "ok"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "--steps", "1001"], "--steps 1001 must be at most 1,000"),
        (["generate", "--steps", "0"], "--steps 0 must be at least 1"),
        (["generate", "--seeds", "1", str(2**64)], "--seeds 18446744073709551616 must be at most"),
        (["generate", "--seeds", "-1"], "--seeds -1 must be at least 0"),
        (["generate", "--guidance", "nan"], "--guidance nan must be a finite number"),
        (["generate", "--batch", "0"], "--batch 0 must be at least 1"),
        (["generate", "--limit", "-3"], "--limit -3 must be at least 0"),
        (["generate", "--mu", "1.5"], "--mu 1.5 must be at most 1"),
        (["evaluate", "--real", ".", "--fake", ".", "--bootstrap", "1"], "--bootstrap 1 must be at least 2"),
        (["bench", "--steps", "0"], "--steps 0 must be at least 1"),
        (["reproduce", "--dataset", ".", "--base", ".", "--generate.steps", "1001"], "--generate.steps 1001 must"),
        ([*TRAIN, "--unet-lr", "0"], "--unet-lr 0.0 must be above 0"),
        ([*TRAIN, "--sample-steps", "2000"], "--sample-steps 2000"),
        ([*TRAIN, "--micro-batch", "-1"], "--micro-batch -1 must"),
    ],
)  # fmt: skip
def test_d3_a_flag_of_the_trainer_out_of_range_is_one_sentence(argv, words, tmp_path, capsys):
    command, *rest = argv
    needed = {"generate": ["--model", ".", "--prompt", "a"], "train": [], "reproduce": []}.get(command, [])
    out = ["--out", str(tmp_path / "out")] if command in ("generate", "train", "reproduce") else []
    assert main("handtrain", "", TRAINER_COMMANDS, [command, *needed, *out, *rest]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--workers", "0"), ("--select.seed", "-5"), ("--select.seed", str(2**63)), ("--select.spare", "inf"),
        ("--image.quality", "101"), ("--fetch.connections", "0"), ("--fetch.timeout", "1e300"),
        ("--rewrite.parallel", "256"), ("--rewrite.temperature", "-0.1"), ("--landmarks.hands", "99999999999"),
        ("--caption.max-new-tokens", "0"), ("--check.in-box", "1.01"), ("--render.seed", "-1"),
    ],
)  # fmt: skip
def test_d3_a_flag_of_a_build_out_of_range_is_one_sentence(flag, value, tmp_path, capsys):
    argv = ["build", "mini", "--out", str(tmp_path / "build"), flag, value, "--dry-run"]
    assert main("handdata", "", COMMANDS, argv) == 2
    said = capsys.readouterr().err
    assert f"{flag} " in said and " must be " in said and said.count("\n") == 1


def numbers_of(kind, seen):
    """Yield (class, field) of every numeric field of a dataclass and of those in it."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            yield from numbers_of(hint, seen)
        elif {int, float} & {hint, *typing.get_args(hint)}:
            yield kind, field


ALL = [
    pair
    for program, table in (("handdata", COMMANDS), ("handtrain", TRAINER_COMMANDS))
    for name in table
    for pair in numbers_of(command_class(program, name), set())
] + list(numbers_of(DrawnGesture, set()))


def test_d3_every_numeric_flag_has_a_range_which_its_default_keeps():
    assert len(ALL) > 80
    for kind, field in ALL:
        for wild in (2**70, -(2**70), float("nan"), float("inf")):
            assert fault_of(kind, field.name, wild), (kind, field.name)
            assert fault_of(kind, field.name, (wild,)), (kind, field.name)
        if field.default is not dataclasses.MISSING:
            assert fault_of(kind, field.name, field.default) is None, (kind, field.name)
    names = {name for kind, field in ALL for name in (field.name, f"{kind.__name__}.{field.name}")}
    assert set(RANGES) <= names, "a row of the table without an option"


def test_d3_arguments_in_python_have_the_same_ranges():
    for options, change in (
        (GenerateOptions(), {"steps": 1001}), (EvaluateOptions(), {"seed": -1}), (TrainOptions(), {"seed": 2**64}),
        (RunOptions(), {"checkpoint_minutes": float("nan")}),
    ):  # fmt: skip
        with pytest.raises(UserError, match="must be"):
            changed(change, options)
    with pytest.raises(UserError, match="--lam 2 must be at most 1"):
        check(TrainOptions(lam=2))
    require_ranges(RunOptions(micro_batch="auto"))
