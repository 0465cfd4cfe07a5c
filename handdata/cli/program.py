"""The main function of `handdata` and `handtrain`: find the command, parse its flags, print errors as one sentence.

A command is a frozen dataclass whose fields are its flags and whose call does the work and returns the exit code:
0 done, 1 could not finish, 2 wrong use. A command whose defaults come from a recipe or a build has a class method
`defaults(argv)`. No heavy module is imported before a command is chosen, so that `--help` prints at once.
"""

import errno
import importlib
import os
import sys
from typing import Any

from handdata.errors import Unfinished, UserError, require_known
from handdata.limits.numbers import require_ranges
from handdata.shipped import version
from handdata.web.urls import without_secrets

Table = dict[str, str]  # one line of help by the name of a command

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(program: str, about: str, table: Table, argv: list[str]) -> int:
    """Run one command line of a program and return its exit code.

    The command `some-name` is the class `SomeName` of the module `<program>.cli.flags`.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # huggingface_hub and datasets report usage by default
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(overview(program, about, table))
            return 0 if argv else 2
        if argv[0] == "--version":
            print(f"{program} {version()}")
            return 0
        return _run(program, table, argv[0], argv[1:])
    except UserError as error:
        return _end(program, str(error), 2)
    except Unfinished as error:
        return _end(program, str(error), 1)
    except KeyboardInterrupt:
        return _end(program, "interrupted; the same command resumes", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in _NO_SPACE:
            place = error.filename or "the output"
            return _end(program, f"no space is left for {place}: free some space, then run the same command again", 1)
        if error.errno in _NO_PERMISSION:
            return _end(program, f"{error.filename} cannot be read or written: check its permissions", 2)
        raise


def overview(program: str, about: str, table: Table) -> str:
    """Return the text of `<program> --help`."""
    width = max(map(len, table), default=0) + 2
    lines = [f"usage: {program} COMMAND ...", "", about, ""]
    lines += [f"  {name:<{width}}{line}" for name, line in table.items()]
    lines += ["", f"{program} COMMAND --help lists a command's flags; {program} --version prints the version."]
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


def _end(program: str, sentence: str, code: int) -> int:
    """Print a sentence on stderr and return the exit code."""
    print(f"{program}: {without_secrets(sentence)}", file=sys.stderr)
    return code
