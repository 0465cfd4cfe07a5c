"""The last resort of both programs: an error that nothing has foreseen becomes one sentence, its trace a file."""

import os
import re
import sys
import tempfile
import traceback

_LONGEST = 200  # characters of the error's own message in the sentence
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters of a variable's value: shorter ones are numbers and switches
_HIDDEN = "[hidden]"
_PATTERNS = [
    # user and password of a URL, and its query
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"<>]*@", re.IGNORECASE), r"\1"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE), rf"\1?{_HIDDEN}"),
    # keys of the Hub and of chat servers
    (re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}|\bsk-[A-Za-z0-9_-]{8,}"), _HIDDEN),
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\"]+", re.IGNORECASE), rf"\1 {_HIDDEN}"),
]


def report(program: str, error: BaseException, debug: bool) -> tuple[str, int]:
    """Store the trace of an error in a new file that only its user can read; return a sentence and the exit code 1.

    With `debug` the trace is printed on stderr as well.
    """
    trace = redacted("".join(traceback.format_exception(error)))
    if debug:
        print(trace, file=sys.stderr, end="")
    try:
        handle, place = tempfile.mkstemp(prefix=f"{program}-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
        where = f"the trace is in {place}"
    except OSError as fault:
        where = f"the trace cannot be stored ({fault.strerror}), and --debug prints it"
    message = " ".join(redacted(str(error)).split())[:_LONGEST]
    name = type(error).__name__ + (f": {message}" if message else "")
    return f"unexpected error ({name}); please report it: {where}", 1


def redacted(text: str) -> str:
    """Return a text without access tokens, secrets of the environment, and users, passwords and queries of URLs."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, _HIDDEN)
    for pattern, kept in _PATTERNS:
        text = pattern.sub(kept, text)
    return text
