"""The two errors that end a command and are not bugs."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence naming the option or file and the remedy. Exit code 2."""


class Unfinished(Exception):
    """The work could not be finished (a server is down, a disk is full): one sentence. Exit code 1."""
