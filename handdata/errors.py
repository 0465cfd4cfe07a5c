"""The two ways in which a command ends that are not bugs, and the check that both packages make first."""

import os
import tempfile
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: one sentence naming the option or file and the remedy. Exit code 2."""


class Unfinished(Exception):
    """The work could not be finished (a server is down, a disk is full): one sentence. Exit code 1."""


def require_writable_folder(folder: Path, option: str) -> None:
    """Make the folder if it is missing and write a file in it; raise `UserError` naming the option if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{option} {folder} cannot be written ({reason}): choose another folder") from None
