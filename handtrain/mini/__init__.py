"""Train the mini models on the mini world: a BLIP that captions it and a Stable Diffusion that draws it.

`python -m handtrain.mini --out FOLDER` draws the pictures, trains, and writes both models. Imports `data`, `method`,
`model` and `run`, and handdata's `world` and `texts.captioners`.
"""

import sys
from collections.abc import Callable

from handdata.errors import UserError


def run_command(name: str, command: Callable[[], int]) -> None:
    """Run a command of this folder and exit with its code; a `UserError` is one sentence on stderr and exit code 2."""
    try:
        sys.exit(command())
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
