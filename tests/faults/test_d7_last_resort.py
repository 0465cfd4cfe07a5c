"""Whatever escapes a command is one sentence, exit code 1, and a trace without secrets in a file."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from handdata.cli import last_resort, program
from handdata.errors import Stopped, Unfinished, UserError
from handdata.machine import Terminated


class Odd(Exception):
    """An error of some library."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def ended(error: BaseException, monkeypatch: pytest.MonkeyPatch, *flags: str, name: str = "handdata") -> int:
    def failing(*_: Any) -> int:
        raise error

    monkeypatch.setattr(program, "_run", failing)
    return program.main(name, "", {}, ["status", *flags])


@pytest.mark.parametrize("name", ["handdata", "handtrain"])
@pytest.mark.parametrize(
    "error",
    [
        KeyError("pose"), AssertionError(), RecursionError("maximum recursion"),
        UnicodeDecodeError("ascii", b"x", 0, 1, "no"),
        Odd("two\nlines\tof text " * 100), OSError("without a number"), ExceptionGroup("several", [ValueError("a")]),
        StopIteration("end"), ModuleNotFoundError("of an installed package", name="json.absent"),
        ZeroDivisionError("\ud800"), OSError(errno.EPROTO, "strange", "file"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_d7_an_unforeseen_error_is_one_sentence_and_a_private_file(
    error: Exception, name: str, monkeypatch: pytest.MonkeyPatch, temporary: Path, capsys: pytest.CaptureFixture
) -> None:
    assert ended(error, monkeypatch, name=name) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: unexpected error ({type(error).__name__}") and len(line) < 500
    (trace,) = temporary.iterdir()
    assert str(trace) in line and trace.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in trace.read_text() and "failing" in trace.read_text()


def test_d7_debug_prints_the_trace_too(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, capsys: pytest.CaptureFixture
) -> None:
    assert ended(Odd("deep inside"), monkeypatch, "--debug") == 1
    errors = capsys.readouterr().err
    assert "Traceback (most recent call last)" in errors and errors.endswith(".txt\n")


def test_d7_without_a_place_for_the_trace_it_is_still_one_sentence(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "missing"))
    assert ended(Odd("x"), monkeypatch) == 1
    assert "the trace cannot be stored (No such file or directory), and --debug prints it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET https://someone:s3cr3t@host.example/a.zip failed", "s3cr3t"),
        ("GET https://token-alone@host.example/a.zip", "token-alone"),
        ("https://host.example/a.zip?X-Amz-Credential=AKIA1&X-Amz-Signature=9f9f9f", "9f9f9f"),
        ("s3://bucket/a.zip?versionId=77aa77#part", "77aa77"),
        ("Authorization: Bearer eyJhbGciOi.J9", "eyJhbGciOi"),
        ("{'Authorization': 'Basic dXNlcjpwdw=='}", "dXNlcjpwdw"),
        ("the token hf_abcdefGHIJKL0123456789 is invalid", "hf_abcdefGHIJKL"),
        ("key sk-proj-abc_DEF-123456 was refused", "abc_DEF"),
        ("the server was given my-own-secret-99", "my-own-secret-99"),
    ],
)
def test_d7_secrets_are_neither_in_the_sentence_nor_in_the_trace(
    text: str, secret: str, monkeypatch: pytest.MonkeyPatch, temporary: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "my-own-secret-99")
    ended(Odd(text), monkeypatch, "--debug")
    (trace,) = temporary.iterdir()
    assert secret not in capsys.readouterr().err + trace.read_text()


def test_d7_ordinary_text_is_not_changed() -> None:
    for text in ("a skin-coloured sk-8", "https://host.example/a/b.zip: HTTP 503", "user@host", "hf:USER/NAME@main"):
        assert last_resort.redacted(text) == text


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("correct it"), 2, "correct it"),
        (Unfinished("wait"), 1, "wait"),
        (Stopped("stopped", 15), 143, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes"),
        (Terminated(), 143, "interrupted; the same command resumes"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), 2, "cannot be used as a path"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/b/run.json"), 2, "/b/run.json is a folder where a file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/b/x/y"), 2, "/b/x/y cannot be used, since a part"),
        (OSError(errno.EIO, "Input/output error", "/disk/file"), 1, "/disk/file cannot be read or written"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 1, "ulimit -n"),
        (
            ModuleNotFoundError("No module", name="absent_x.y"),
            2,
            "status needs the package absent_x: pip install 'hand1",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/locked/x"), 2, "/locked/x cannot be read or written"),
    ],
    ids=str,
)
def test_d7_expected_errors_do_not_reach_the_last_resort(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    reached: list[BaseException] = []
    monkeypatch.setattr(last_resort, "report", lambda _, error, debug: (reached.append(error), 1))
    assert ended(error, monkeypatch) == code
    assert sentence in capsys.readouterr().err and not reached


def test_d7_the_help_names_the_flag_and_the_exit_codes() -> None:
    text = program.overview("handdata", "about", {"build": "run the stages"})
    assert "--debug" in text and re.search(r"130 stopped by Ctrl-C, 143 stopped by SIGTERM", text)
