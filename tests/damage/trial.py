"""One try: commands that run in this process, and everything about their ends that a user would notice."""

import json
import os
import random
import shutil
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from handdata.files import sha256_by_path

TRACEBACK = "Traceback (most recent call last)"
TAIL = 1500  # characters of stderr that a result keeps


@dataclass
class Ended:
    """The end of one command."""

    words: list[str]
    code: int | None  # None: an exception left the main function
    errors: str  # stderr, its last characters
    last_resort: str = ""  # the trace, if the error reached the last resort
    traceback: bool = False
    sentence: bool = True  # an exit code other than 0 came with a sentence


@dataclass
class Trial:
    """The folder of one try, its random numbers, and what has happened so far."""

    fixture: Path
    folder: Path
    chance: random.Random
    ended: list[Ended] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # results that differ from the undamaged ones
    allowed: list[str] = field(default_factory=list)  # differences that are declared, with the reason
    rebuilt: bool = False  # a damaged file was made again

    def copy(self, name: str, to: str = "") -> Path:
        """Copy a folder or file of the fixture into the try's folder."""
        source, target = self.fixture / name, self.folder / (to or name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    def run(self, program: str, *words: object) -> int | None:
        """Run one command line; return its exit code, None if an exception left the main function."""
        from handdata.cli import last_resort
        from handdata.cli import program as programs

        reached: list[str] = []
        real = last_resort.report

        def report(name: str, error: BaseException, debug: bool) -> tuple[str, int]:
            reached.append("".join(traceback.format_exception(error)))
            return real(name, error, debug)

        place, argv = Path(self.folder / "stderr.txt"), [str(word) for word in words]
        before = place.stat().st_size
        last_resort.report = report
        try:
            code = programs.main(program, "", _commands(program), argv)
        except SystemExit as end:  # of the library that parses flags
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - a try must not end the others
            traceback.print_exc()
            code = None
        finally:
            last_resort.report = real
        sys.stderr.flush()
        errors = place.read_bytes()[before:].decode("utf-8", "replace")
        self.ended.append(_ended([program, *argv], code, errors, "\n".join(reached)))
        return code

    def compare(self, place: Path, expected: str, allowed: str = "") -> None:
        """Note a finished folder or file that differs from the fixture's; `allowed` declares the reason."""
        difference = different(self.fixture / expected, place)
        if difference and allowed:
            self.allowed.append(f"{allowed}: {difference}")
        elif difference:
            self.wrong.append(f"{place.name} {difference}")

    def verdict(self) -> str:
        """Return the outcome in one word."""
        if any(end.last_resort for end in self.ended):
            return "last resort"
        if any(end.traceback or end.code is None for end in self.ended):
            return "traceback"
        if self.wrong:
            return "WRONG"
        if any(not end.sentence or end.code not in (0, 1, 2) for end in self.ended):
            return "no sentence"
        if self.allowed:
            return "declared"
        if self.ended and self.ended[-1].code:
            return "refused"
        return "rebuilt" if self.rebuilt or any(end.code for end in self.ended) else "equal"

    def result(self) -> dict[str, Any]:
        """Return the verdict and all that explains it, as plain data."""
        ends = [asdict(end) for end in self.ended]
        return {"verdict": self.verdict(), "ended": ends, "wrong": self.wrong, "allowed": self.allowed}


def different(expected: Path, place: Path) -> str:
    """Return the first difference of two folders or files, an empty text if they are equal."""
    if not place.exists():
        return "is missing"
    if expected.is_file():
        return "" if expected.read_bytes() == place.read_bytes() else "has other bytes"
    wanted, found = sha256_by_path(expected), sha256_by_path(place)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            kind = "lacks" if name not in found else "has an extra" if name not in wanted else "has another"
            return f"{kind} {name}"
    return ""


def in_this_process(fixture: Path, folder: Path, family: str, name: str, seed: int) -> None:
    """Run one case with stdout and stderr in files of its folder, and write result.json there."""
    from tests.damage.families import FAMILIES

    for number, stream in ((1, "stdout.txt"), (2, "stderr.txt")):
        handle = os.open(folder / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
    trial, imported = Trial(fixture, folder, random.Random(f"{family} {name} {seed}")), set(sys.modules)
    os.fsync = lambda handle: None  # type: ignore[assignment]  # there are no power failures, but many files
    os.environ["HF_HOME"] = str(folder / "hf")
    os.environ["TMPDIR"] = str(folder)
    import tempfile

    import datasets

    tempfile.tempdir = str(folder)
    datasets.config.HF_DATASETS_CACHE = folder / "hf" / "datasets"
    os.environ["HAND1000_CACHE"] = str(fixture / "cache")
    (folder / "here").mkdir()
    os.chdir(folder / "here")  # relative names must not meet a real folder
    try:
        FAMILIES[family].run(trial, name)
        result = trial.result()
    except BaseException:  # noqa: BLE001 - a fault of the harness itself
        result = {"verdict": "broken harness", "ended": [], "wrong": [traceback.format_exc()], "allowed": []}
    result["processor"] = round(sum(os.times()[:2]), 2)
    result["imported"] = [module for module in sys.modules if module not in imported]
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _ended(words: list[str], code: int | None, errors: str, reached: str) -> Ended:
    lines = [line for line in errors.splitlines() if line.strip()]
    parsed = code == 2 and "\u256d\u2500" in errors and "--help" in errors  # the box of tyro, which reads the flags
    sentence = code == 0 or parsed or any(line.startswith(f"{words[0]}: ") for line in lines[-3:])
    return Ended(words, code, errors[-TAIL:], reached, TRACEBACK in errors, sentence)


def _commands(program: str) -> dict[str, str]:
    from handdata.cli import COMMANDS as DATA
    from handtrain.cli import COMMANDS as TRAIN

    return DATA if program == "handdata" else TRAIN
