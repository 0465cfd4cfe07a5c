"""Both command lines: help in time, one clear sentence for a mistake, docs/cli.md as printed."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import handdata.cli
import handtrain.cli
from handdata.cli import program as commands
from tests import ROOT

PROGRAMS = {"handdata": handdata.cli, "handtrain": handtrain.cli}
EVERY_COMMAND = [(program, name) for program, module in PROGRAMS.items() for name in module.COMMANDS]
HEAVY = ("torch", "mediapipe", "cv2", "transformers", "datasets", "diffusers", "llama_cpp", "httpx2", "ray", "pandas")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *words]
    environment = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def help_of(*words: str, limit: float) -> str:
    """Return the output of `--help`; fail if it needs more than `limit` seconds of processor time in all of five runs.

    A busy machine lengthens the processor's time less than the clock's, and the shortest of some runs least.
    """
    spent = []
    while len(spent) < 5:
        before = os.times()
        answer = run(*words, "--help")
        after = os.times()
        assert answer.returncode == 0, answer.stderr
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if spent[-1] <= limit:
            return answer.stdout
    raise AssertionError(f"{' '.join(words)} --help takes {min(spent):.2f} s, more than {limit} s")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_of_the_program_lists_its_commands_within_300_ms(program):
    output = help_of(program, limit=0.3)
    assert all(name in output and line in output for name, line in PROGRAMS[program].COMMANDS.items())


@pytest.mark.parametrize(("program", "name"), EVERY_COMMAND)
def test_every_command_has_help_within_a_second_that_describes_every_flag(program, name):
    output = help_of(program, name, limit=1.0)
    assert f"usage: {program} {name}" in output
    # the help of a flag without a description begins with its default
    lines = [line.replace("│", " ").strip() for line in output.splitlines()]
    text = " ".join("¶" + line if line.startswith("--") else line for line in lines)
    metavar = r"(?: (?:\[?[A-Z]+[^a-z]*|\{[^}]*\}))?"
    assert re.findall(rf"¶--[\w.-]+(?:, --no-[\w.-]+)?{metavar} +\((?:default|required|optional)", text) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_command_is_one_sentence_and_exit_code_2(program):
    answer = run(program, "publsh")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.count("\n") == 1 and "unknown command 'publsh': did you mean 'publish'?" in answer.stderr


def test_an_unwritable_folder_is_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    answer = run("handdata", "assets", HAND1000_CACHE=str(tmp_path / "file" / "below"))
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1 and "cannot be written" in answer.stderr


def test_no_command_shows_the_help_and_is_a_wrong_use():
    answer = run("handdata")
    assert answer.returncode == 2 and "usage: handdata COMMAND" in answer.stdout


def test_the_page_of_all_commands_is_current():
    specification = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.cli_page(), "run `make docs`"


def test_a_command_is_the_class_of_its_name():
    assert commands.command_class("handdata", "assets").__name__ == "Assets"


@pytest.mark.parametrize("program", PROGRAMS)
def test_importing_the_flags_imports_nothing_heavy(program):
    assert imported(f"import {program}.cli.flags", HEAVY) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_list_of_commands_needs_neither_models_nor_arrays(program):
    code = f"import runpy; sys.argv = ['{program}', '--help']\ntry: runpy.run_module('{program}', run_name='__main__')"
    assert imported(f"{code}\nexcept SystemExit as end: assert end.code == 0", (*HEAVY, "numpy", "pyarrow")) == []


def test_a_report_is_written_without_the_libraries_of_the_models():
    assert imported("import handtrain.reporting.report", ("diffusers", "transformers", "mediapipe", "datasets")) == []


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Return those of the packages that a fresh process has imported after it ran the code."""
    code = f"import sys\n{code}\nprint('imported:', *[name for name in {names!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[-1].split()[1:]
