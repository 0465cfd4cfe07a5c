"""The errors that end a command and are not bugs."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: one sentence naming the option or file and the remedy. Exit code 2."""


class Unfinished(Exception):
    """The work could not be finished (a server is down, a disk is full): one sentence. Exit code 1."""


class Stopped(Unfinished):
    """The work ended in good order after a signal such as Ctrl-C or SIGTERM. Exit code 128 + the signal's number."""

    def __init__(self, sentence: str, signum: int) -> None:
        super().__init__(sentence)
        self.signum = signum

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:  # exceptions pass between processes
        return type(self), (str(self), self.signum)


def require_known(name: str, known: Iterable[str], kind: str, hint: str = "") -> None:
    """Raise `UserError` for a name that is not among the known ones, with the nearest of them and a hint."""
    names = list(known)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise UserError(f"unknown {kind} '{name}'" + "".join(f": did you mean '{near}'?" for near in nearest) + hint)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class.

    The message of an error about a header is left out: the libraries quote the header, which may hold a key.
    """
    line = next(iter(str(error).splitlines()), "").strip()
    quotes = "header" in line.lower() or "bearer" in line.lower()
    return type(error).__name__ if quotes or not line else line[:300]
