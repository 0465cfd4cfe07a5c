import subprocess
import sys
from dataclasses import fields

import pytest
import tyro

from handdata.cli import program as commands
from handdata.errors import UserError
from handtrain.cli import COMMANDS
from handtrain.cli.flags import Train
from handtrain.presets import PRESETS, TrainOptions, check, options_of
from handtrain.run.cost import stage3_order
from tests import ROOT

PLACES = ["--dataset", "d", "--gesture", "call", "--base", "b", "--out", "o"]


def _parse(*flags: str) -> Train:
    argv = [*PLACES, *flags]
    return tyro.cli(Train, args=argv, default=Train.defaults(argv))


def test_the_default_is_the_papers_reading() -> None:
    options = _parse().options
    assert options == options_of("paper")
    assert (options.lam, options.embedding_steps, options.embedding_lr) == (0.7, 10, 1e-3)
    assert (options.unet_epochs, options.unet_lr, options.unet_batch) == (20, 1e-6, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_choice_with_valid_options(preset: str) -> None:
    options = _parse("--preset", preset).options
    assert options == options_of(preset)
    check(options)
    assert set(PRESETS[preset].changes) <= {f.name for f in fields(TrainOptions)}


def test_fast_keeps_rate_times_steps() -> None:
    paper, fast = options_of("paper"), options_of("fast")
    assert fast.unet_lr / fast.unet_batch == pytest.approx(paper.unet_lr / paper.unet_batch)


def test_few_is_plus_with_a_length_that_does_not_depend_on_the_number_of_images() -> None:
    plus, few = options_of("plus"), options_of("few")
    changed = {f.name for f in fields(TrainOptions) if getattr(plus, f.name) != getattr(few, f.name)}
    assert changed == {"unet_samples"}
    orders = [stage3_order(few, [images], few.prior_images) for images in (8, 23, 80)]
    assert [order.steps for order in orders] == [512] * 3


def test_every_option_of_plus_2025_has_its_own_flag() -> None:
    flags = ["--crop", "hand", "--feature", "normalised", "--fusion", "token", "--hand-weight", "2"]
    assert _parse("--preset", "fast", *flags).options == options_of("plus-2025")


def test_a_flag_overrides_the_preset_before_and_after_it() -> None:
    assert _parse("--lam", "0.2", "--preset=fast").options.lam == 0.2
    assert _parse("--preset=fast", "--unet-batch", "8").options.unet_batch == 8


def test_an_unknown_preset_is_one_sentence() -> None:
    with pytest.raises(UserError, match="choose one of paper, reference"):
        Train.defaults(["--preset", "papr"])


@pytest.mark.parametrize(
    "flags",
    [
        ["train", *PLACES],
        ["train", *PLACES, "--preset", "papr"],
        ["train", *PLACES, "--lam", "2"],
        ["publish", "--model", "absent", "--to", "x"],
        ["import-checkpoint", "--checkpoint", "c", "--base", "b", "--gesture", "cal", "--out", "o"],
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_2(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main("handtrain", "", COMMANDS, flags) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("handtrain: ")


def test_the_flags_do_not_import_torch() -> None:
    code = "import sys, handtrain.cli.flags; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
