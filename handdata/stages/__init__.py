"""The stages of a build, a module each: what a stage is, and the table of all of them.

A stage is a class. Its constructor loads the model; its call takes columns (a dict of equal-length lists) and returns
the columns it adds, with `reason` (None where all is well).
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

Columns = dict[str, list[Any]]


class Stage(Protocol):
    """What the engine asks of a stage. `options` is the stage's frozen dataclass.

    A stage that holds a model may have a method `close`, called when its last shard is made.
    """

    name: ClassVar[str]  # its folder in the build and its key in STAGE_COLUMNS
    version: ClassVar[int]  # raised when a change of the code changes what comes out
    inputs: ClassVar[tuple[str, ...]]  # columns it reads; `image` is the bytes of the stored file
    final_reasons: ClassVar[frozenset[str]]  # reasons that the same input will always give: not tried again

    @staticmethod
    def fingerprint(options: Any) -> Any: ...  # as JSON: what else decides the output (options, prompt, model)
    def __init__(self, options: Any) -> None: ...
    def __call__(self, columns: Columns) -> Columns: ...


@dataclass(frozen=True)
class Execution:
    """How stages run. It does not change their results."""

    engine: str = "local"  # local or ray
    workers: int = 1  # processes of a stage
    progress: bool = True


@dataclass
class StageReport:
    """What became of the rows of one stage."""

    rows: int = 0
    kept_shards: int = 0  # were finished and made from the same inputs
    made_shards: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # rows by reason
