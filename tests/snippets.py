"""Run the Python blocks and command lines of a page in one process, as a reader would, one after the other.

    python -m tests.snippets FILE

FILE is a JSON list of [kind, text]: `python` (the blocks of a list share their names), `program` (handdata or
handtrain, run in this process, since importing torch takes seconds), or `shell`.
"""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import handdata.cli
import handtrain.cli
from handdata.cli import program

PROGRAMS = {"handdata": handdata.cli, "handtrain": handtrain.cli}
FIRST_WORDS = "handdata|handtrain|python|make|accelerate|torchrun|duckdb"
Snippet = tuple[str, str]  # kind and text


def snippets(text: str) -> list[Snippet]:
    """Return the Python blocks and the command lines of a Markdown text, in their order."""
    found: list[Snippet] = []
    text = re.sub(r" \\\n +", " ", text)  # a command on two lines
    pattern = rf"^```(\w*)\n(.*?)^```$|^ {{4}}((?:{FIRST_WORDS}) [^\n]*)$"
    for language, block, line in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        if language == "python":
            found.append(("python", block))
        elif language in ("sh", "bash", "shell"):
            found += [("shell", command) for command in map(without_comment, block.splitlines()) if command]
        elif line:
            found.append(("shell", without_comment(line)))
    return [("program" if kind == "shell" and text.split()[0] in PROGRAMS else kind, text) for kind, text in found]


def without_comment(line: str) -> str:
    """Return a command line without its comment."""
    return re.sub(r"(^|\s+)# .*$", "", line).strip()


def parse(command: str) -> None:
    """Let the real parser of a program read a command line, and nothing else. Raises `SystemExit` for a mistake."""
    import tyro

    words = shlex.split(command)
    name = next(word for word in words if word in PROGRAMS)
    argv = words[words.index(name) + 1 :]
    kind = program.command_class(name, argv[0])
    defaults = kind.defaults(argv[1:]) if hasattr(kind, "defaults") else None
    tyro.cli(kind, args=argv[1:], default=defaults)


def run(snippet: Snippet, names: dict[str, Any]) -> None:
    """Run one snippet; an error of any kind ends the process."""
    kind, text = snippet
    if kind == "python":
        exec(compile(text, "<page>", "exec"), names)
    elif kind == "program":
        name, *argv = shlex.split(text)
        with contextlib.redirect_stdout(io.StringIO()):
            code = program.main(name, "", PROGRAMS[name].COMMANDS, argv)
        assert code == 0, f"exit code {code}"
    elif "hub_server" in text:
        serve(text)
    else:
        subprocess.run(text, shell=True, check=True, stdout=subprocess.DEVNULL)


def serve(command: str) -> None:
    """Start a server, wait for its first line, and end it."""
    with subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and "HF_ENDPOINT" in server.stdout.readline()
        server.terminate()


def main() -> None:
    """Run the snippets of a file in the working directory."""
    names: dict[str, Any] = {"__name__": "page"}
    for kind, text in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        started = time.monotonic()
        print(f"$ {text.strip()}", file=sys.stderr)
        run((kind, text), names)
        print(f"  {time.monotonic() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
