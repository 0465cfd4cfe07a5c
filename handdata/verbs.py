"""The flags of every `handdata` command: one frozen dataclass each, whose call runs the driver."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from handdata.render import RenderOptions


@dataclass(frozen=True)
class Assets:
    """Fetch the model files that are not loaded through a hub library, and verify their sha256.

    Without a name: all that handdata and the tests of its stages need. Files are kept in ~/.cache/hand1000
    (XDG_CACHE_HOME and HAND1000_CACHE change that).
    """

    names: Positional[tuple[str, ...]] = ()  # as --list shows them
    list: bool = False  # only say which files there are, where they come from and which are here

    def __call__(self) -> int:
        from handdata import assets

        if self.list:
            assets.print_list()
        else:
            assets.fetch_all(self.names)
        return 0


@dataclass(frozen=True)
class Render:
    """Draw the mini world, a HaGRID in small: archives, annotations and the truth about every picture.

    No network and no model is needed. The same options and seed give the same bytes; run again after an interruption,
    the command continues.
    """

    out: Path  # folder for <gesture>.zip, annotations.zip and truth.jsonl
    options: Annotated[RenderOptions, tyro.conf.arg(name="")] = RenderOptions()
    workers: int = 0  # processes; 0: as many as there are cores
    dry_run: bool = False  # only say what would be drawn

    def __call__(self) -> int:
        from handdata import render

        if self.dry_run:
            render.check(self.options)
            print(render.summary(self.options))
        else:
            drawn = render.draw(self.options, self.out, self.workers)
            print(f"{sum(drawn.values()):,} pictures of {len(drawn)} gestures are in {self.out}")
        return 0
