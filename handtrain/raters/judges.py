"""Other judges of hands: a dict from name to class, which installed packages extend by Python entry points.

A judge is a class. `CLASS(**settings)` gets the user's settings as texts; the object is called with an image (height,
width, 3) of uint8 in RGB and returns a score: a finite number that is higher the more the anatomy is wrong, or None
where it cannot tell. An attribute `parallel` allows that many calls at once (1 without it). A package names its classes
in the entry points of the group `hand1000.judges`.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from typing import Any

import numpy as np

from handdata.errors import UserError, first_line, require_known
from handtrain.raters.vlm import VlmJudge

GROUP = "hand1000.judges"

Judge = Callable[[np.ndarray], float | None]

JUDGES: dict[str, type] = {"vlm": VlmJudge}


def judges() -> dict[str, type | EntryPoint]:
    """Return all judges by name: ours, and the entry points of installed packages, which are not imported yet.

    Raises `UserError` if two have the same name.
    """
    known: dict[str, type | EntryPoint] = dict(JUDGES)
    for point in entry_points(group=GROUP):
        if point.name in known:
            raise UserError(f"{_package(point)} has a judge {point.name!r}, as another one does: uninstall one of them")
        known[point.name] = point
    return known


def make_judge(text: str) -> Judge:
    """Return the judge that a user wrote as NAME or NAME:KEY=VALUE,KEY=VALUE.

    Raises `UserError` for an unknown name or setting, and for a package whose judge cannot be imported.
    """
    name, _, rest = text.partition(":")
    known = judges()
    require_known(name, known, "judge")
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    settings = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    if len(settings) < len(pairs):
        raise UserError(f"--judge {text}: write the settings once each, as NAME:KEY=VALUE,KEY=VALUE")
    kind = known[name]
    if isinstance(kind, EntryPoint):
        kind = _imported(kind)
    try:
        inspect.signature(kind).bind(**settings)
    except TypeError as error:
        keys = ", ".join(inspect.signature(kind).parameters) or "none"
        raise UserError(f"--judge {text}: {error}; the settings of {name} are: {keys}") from None
    judge: Judge = kind(**settings)
    if not callable(judge):
        raise UserError(f"the judge {name!r} is not callable: it must take an image and return a score")
    return judge


def scores(judge: Judge, images: Iterable[np.ndarray]) -> list[float | None]:
    """Return the score of each image (height, width, 3) of uint8, in their order.

    Raises `UserError` for a score that is not a finite number or None.
    """
    parallel = getattr(judge, "parallel", 1)
    waiting, found = iter(images), list[float | None]()
    with ThreadPoolExecutor(parallel) as pool:
        try:
            while batch := list(islice(waiting, 4 * parallel)):  # few images are in memory at a time
                found += [_checked(score, len(found) + place) for place, score in enumerate(pool.map(judge, batch))]
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _checked(score: Any, number: int) -> float | None:
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float | np.number) or not math.isfinite(score):
        raise UserError(
            f"the judge returned {str(score)[:40]!r} for image {number}: a score is a finite number or None"
        )
    return float(score)


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the judge {point.name!r} of {_package(point)} cannot be imported ({first_line(error)}): reinstall it"
        ) from None


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else "an installed package"
