"""The main function of `handdata` and `handtrain`: find the command, parse its flags, print errors as one sentence.

A command is a frozen dataclass whose fields are its flags and whose call does the work and returns the exit code:
0 done, 1 could not finish, 2 wrong use, 130 stopped by Ctrl-C, 143 stopped by SIGTERM. A command whose defaults come
from a recipe or a build has a class method `defaults(argv)`. No heavy module is imported before a command is chosen, so
that `--help` prints at once.
"""

import errno
import importlib.util
import os
import signal
import sys
from typing import Any

from handdata.cli import last_resort
from handdata.cli.stopping import INTERRUPTED, orderly_stops
from handdata.errors import Stopped, Unfinished, UserError, require_known
from handdata.limits.numbers import require_ranges
from handdata.machine import Terminated
from handdata.shipped import version
from handdata.web.urls import without_secrets

Table = dict[str, str]  # one line of help by the name of a command

DEBUG = "--debug"  # flag of every command: print the trace of an unexpected error

# The sentence and exit code of an error of the operating system, by its number.
_NO_SPACE = ("no space is left for {file}: free some space, then run the same command again", 1)
_NO_PERMISSION = ("{file} cannot be read or written: check its permissions", 2)
_FOLDER = ("{file} is a folder where a file belongs: move it away, or name a file", 2)
_NO_FOLDER = ("{file} cannot be used, since a part of this path is a file, not a folder: correct it", 2)
_NO_PATH = ("{file} cannot be used as a path ({reason}): correct it", 2)
_FAULTY = ("{file} cannot be read or written ({reason}): check the disk, then run the same command again", 1)
_FILES = ("too many files are open: raise the limit (ulimit -n), then run the same command again", 1)
_SYSTEM = {
    errno.ENOSPC: _NO_SPACE, errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_PERMISSION, errno.EPERM: _NO_PERMISSION, errno.EROFS: _NO_PERMISSION,
    errno.EISDIR: _FOLDER, errno.ENOTDIR: _NO_FOLDER, errno.ENAMETOOLONG: _NO_PATH, errno.ELOOP: _NO_PATH,
    errno.EIO: _FAULTY, errno.ESTALE: _FAULTY,
    errno.EMFILE: _FILES, errno.ENFILE: _FILES,
}  # fmt: skip

_EXTRAS = {"judge": "judge", "generate": "generate", "app": "train,app"}  # of commands; of all others data or train


def main(program: str, about: str, table: Table, argv: list[str]) -> int:
    """Run one command line of a program and return its exit code.

    The command `some-name` is the class `SomeName` of the module `<program>.cli.flags`.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # huggingface_hub and datasets report usage by default
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold characters that the terminal has not
    debug, argv = DEBUG in argv, [word for word in argv if word != DEBUG]
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(overview(program, about, table))
            return 0 if argv else 2
        if argv[0] == "--version":
            print(f"{program} {version()}")
            return 0
        with orderly_stops(program):
            return _run(program, table, argv[0], argv[1:])
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (nothing else may escape)
        sentence, code = (
            _sentence(error) or _missing_package(error, program, argv) or last_resort.report(program, error, debug)
        )
        whole = (
            without_secrets(sentence).encode("utf-8", "backslashreplace").decode("utf-8")
        )  # names may hold half a character
        print(f"{program}: {whole}", file=sys.stderr)
        return code


def overview(program: str, about: str, table: Table) -> str:
    """Return the text of `<program> --help`."""
    width = max(map(len, table), default=0) + 2
    lines = [f"usage: {program} COMMAND ...", "", about, ""]
    lines += [f"  {name:<{width}}{line}" for name, line in table.items()]
    lines += ["", f"{program} COMMAND --help lists a command's flags; {program} --version prints the version."]
    lines += [f"{DEBUG} prints the trace of an unexpected error. Exit codes: 0 done, 1 could not finish, 2 wrong use,"]
    lines += ["130 stopped by Ctrl-C, 143 stopped by SIGTERM; the same command resumes."]
    return "\n".join(lines)


def command_class(program: str, name: str) -> Any:
    """Return the dataclass of a command."""
    flags = importlib.import_module(f"{program}.cli.flags")
    return getattr(flags, "".join(part.title() for part in name.split("-")))


def _run(program: str, table: Table, name: str, argv: list[str]) -> int:
    require_known(name, table, "command")
    import tyro

    command = command_class(program, name)
    defaults = command.defaults(argv) if hasattr(command, "defaults") else None
    flags = tyro.cli(command, prog=f"{program} {name}", args=argv, default=defaults)
    require_ranges(flags)
    return int(flags())


def _sentence(error: BaseException) -> tuple[str, int] | None:
    """Return the sentence and the exit code of an error that is expected, None for another one."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Stopped):
        return str(error), 128 + error.signum
    if isinstance(error, Unfinished):
        return str(error), 1
    if isinstance(error, KeyboardInterrupt):
        signum = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        return INTERRUPTED, 128 + signum
    if isinstance(error, MemoryError):
        return "out of memory: use fewer --workers or a smaller batch, then run the same command again", 1
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        sentence, code = _SYSTEM[error.errno]
        return sentence.format(file=error.filename or "the output", reason=error.strerror), code
    return None


def _missing_package(error: BaseException, program: str, argv: list[str]) -> tuple[str, int] | None:
    """Return the sentence and the exit code for a package that is not installed, None for another error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or not argv or name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        return None
    extra = _EXTRAS.get(argv[0], "data" if program == "handdata" else "train")
    return f"{argv[0]} needs the package {name}: pip install 'hand1000[{extra}]'", 2
