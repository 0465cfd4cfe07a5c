"""The table of docs/anatomy_benchmark.md: how well every metric tells wrong hands from right ones, by size and flaw."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.anatomy_fit import auc, by_folds, fit, logistic, without
from benchmarks.anatomy_measures import Measures
from handdata.markdown import markdown_table
from handtrain.evaluation import bootstrap
from handtrain.judging.anatomy import FINGERS, FLAWS, Weights

Floats = NDArray[np.floating]

_DRAWS = 500  # bootstrap replicates, of whole pairs


def table(data: Measures, photos: Measures | None, seed: int) -> Iterator[str]:
    """Yield the lines of the tables; every fitted number of a hand is by a fit that never saw its person."""
    found = data.rows(data.found)
    outputs = np.full((len(data.found), 12), np.nan)
    outputs[data.found] = by_folds(found, seed, lambda known, new: fit(known, seed).outputs(new.features))
    scores = {name: _whole(data, values) for name, values in _scores(found, seed).items()}
    seen = _scores_of_others(found, photos, fit(data, seed)) if photos else {}

    def blind(flaw: str) -> Floats:
        return by_folds(found, seed, partial(_judged_blindly, flaw, seed))

    yield from _lines(data, outputs, scores, seen, blind, seed)


def held_out(known: Measures, data: Measures, photos: Measures | None, seed: int) -> Iterator[str]:
    """Yield the lines of the tables for pairs of `data` by fits on all of `known`, which must not share a person."""
    assert not set(known.person) & set(data.person), "a person is in both"
    fitted, weights = known.rows(known.found), fit(known, seed)
    outputs = weights.outputs(data.features)
    scores = {name: _whole(data, values) for name, values in _scores_of_others(fitted, data, weights).items()}
    seen = _scores_of_others(fitted, photos, weights) if photos else {}

    def blind(flaw: str) -> Floats:
        return _judged(without(fitted, flaw), data.rows(data.found), seed)

    yield from _lines(data, outputs, scores, seen, blind, seed)


def _lines(
    data: Measures,
    outputs: Floats,
    scores: dict[str, Floats],
    seen: dict[str, Floats],
    blind: Callable[[str], Floats],
    seed: int,
) -> Iterator[str]:
    """Yield the lines; `seen` are the photographs' scores, `blind` judges the found hands with a flaw left out."""
    sizes = sorted(set(data.size.tolist()), reverse=True)
    yield markdown_table(
        ["metric", *(f"{size} px{rest}" for size in sizes for rest in ("", ", found", ", against photographs"))],
        [[name, *_row(data, values, seen.get(name), sizes)] for name, values in scores.items()],
    )
    combined = scores["combined"]
    yield f"\nHands found: {_found(data, sizes)}."
    for size in sizes:
        low, high = _interval(data.rows(data.size == size), combined[data.size == size], seed)
        yield f"combined at {size} px, 95 % over pairs: {low:.3f} to {high:.3f}."
    if seen:
        yield f"Photographs above 0.5: {int((seen['combined'] > 0.5).sum())} of {len(seen['combined'])}."
    one = data.wrong & (data.flaws.sum(axis=1) == 1)
    for size in sizes:
        ends = [
            f"{_auc_of_kind(data, combined, kind & (data.size == size), size)}" for kind in (one, data.wrong & ~one)
        ]
        yield f"AUC of combined at {size} px, hands with one flaw and with several: {', '.join(ends)}."
    for size in sizes:
        flawed, right = (f"{(combined[kind & (data.size == size)] > 0.5).mean():.1%}" for kind in (one, ~data.wrong))
        yield f"Above 0.5 at {size} px: {flawed} of the hands with one flaw, {right} of the right ones."
    counted = data.visible & data.found
    fingers = np.array(FINGERS)[outputs[counted, 1 + len(FLAWS) :].argmax(axis=1)] == data.fingers[counted]
    always = f"{(data.fingers[counted] == 5).mean():.1%}"
    yield f"Fingers right: {fingers.mean():.1%} of {counted.sum()} with all fingers extended; always five: {always}."
    named = outputs[one & data.found, 1 : 1 + len(FLAWS)].argmax(axis=1) == data.flaws[one & data.found].argmax(axis=1)
    yield f"The flaw named first is right in {named.mean():.1%} of {len(named)} hands with one flaw.\n"
    rows = []
    for flaw in FLAWS:
        judged = (combined, _whole(data, blind(flaw)))
        cells = [_auc_of(data, values, flaw, size) for values in judged for size in sizes]
        rows.append([flaw, str(int((data.flaws[:, FLAWS.index(flaw)] & data.wrong).sum())), *cells])
    heads = [f"{size} px{rest}" for rest in ("", ", flaw left out of the fit") for size in sizes]
    yield markdown_table(["flaw", "hands", *heads], rows)


def _judged_blindly(flaw: str, seed: int, known: Measures, new: Measures) -> Floats:
    return _judged(without(known, flaw), new, seed)


def check(data: Measures) -> str:
    """Return how well the shipped weights judge pairs on which they were not fitted."""
    found, weights = data.rows(data.found), Weights.load()
    outputs = weights.outputs(found.features)
    p_wrong = _whole(data, weights.p_wrong(outputs, found.stability))
    seen = p_wrong[data.found]
    fingers = np.array(FINGERS)[outputs[:, 1 + len(FLAWS) :].argmax(axis=1)] == found.fingers
    return (
        f"AUC {auc(p_wrong[data.wrong], p_wrong[~data.wrong]):.3f}, over found hands "
        f"{auc(seen[found.wrong], seen[~found.wrong]):.3f} ({data.wrong.sum()} pairs); above 0.5: "
        f"{(p_wrong[data.wrong] > 0.5).mean():.1%} of the wrong hands, "
        f"{(p_wrong[~data.wrong] > 0.5).mean():.1%} of the right ones; fingers right in "
        f"{fingers[found.visible].mean():.1%} of {found.visible.sum()} hands with all fingers extended"
    )


def _scores(found: Measures, seed: int) -> dict[str, Floats]:
    """Return every metric's score of the found hands, high for wrong."""
    network = by_folds(found, seed, lambda known, new: fit(known, seed).outputs(new.features)[:, 0])
    bones = by_folds(found, seed, lambda known, new: _bones(known, new))
    return {
        "HAND-CONF": 1 - found.score,
        "found rate": np.zeros(len(found.score)),
        "stability": found.stability[:, 0],
        "bones": bones,
        "network": network,
        "combined": by_folds(found, seed, lambda known, new: _judged(known, new, seed)),
    }


def _scores_of_others(found: Measures, photos: Measures, whole: Weights) -> dict[str, Floats]:
    """Return the scores of others' found hands, such as photographs', by the fit on all drawn hands `found`."""
    photos = photos.rows(photos.found)
    outputs = whole.outputs(photos.features)
    return {
        "HAND-CONF": 1 - photos.score,
        "found rate": np.zeros(len(photos.score)),
        "stability": photos.stability[:, 0],
        "bones": _bones(found, photos),
        "network": outputs[:, 0],
        "combined": whole.p_wrong(outputs, photos.stability),
    }


def _judged(known: Measures, new: Measures, seed: int) -> Floats:
    weights = fit(known, seed)
    return weights.p_wrong(weights.outputs(new.features), new.stability)


def _bones(known: Measures, new: Measures) -> Floats:
    factors = logistic(known.bones, known.wrong)
    scores: Floats = new.bones @ factors[:-1] + factors[-1]
    return scores


def _whole(data: Measures, values: Floats) -> Floats:
    """Return scores of all pictures: one without a found hand is more wrong than any hand."""
    scores = np.full(len(data.found), np.inf)
    scores[data.found] = values
    return scores


def _row(data: Measures, scores: Floats, photos: Floats | None, sizes: list[int]) -> Iterator[str]:
    for size in sizes:
        mine = data.size == size
        yield f"{auc(scores[mine & data.wrong], scores[mine & ~data.wrong]):.3f}"
        mine &= data.found
        yield f"{auc(scores[mine & data.wrong], scores[mine & ~data.wrong]):.3f}"
        yield "" if photos is None else f"{auc(scores[mine & data.wrong], photos):.3f}"


def _auc_of_kind(data: Measures, scores: Floats, wrong: NDArray[np.bool_], size: int) -> str:
    right = ~data.wrong & (data.size == size)
    return f"{auc(scores[wrong], scores[right]):.3f} of {wrong.sum()}" if wrong.any() else "none"


def _auc_of(data: Measures, scores: Floats, flaw: str, size: int) -> str:
    """Return the AUC of the hands with this flaw alone or with others, against all right hands of that size."""
    mine = data.size == size
    chosen = mine & data.wrong & data.flaws[:, FLAWS.index(flaw)]
    return f"{auc(scores[chosen], scores[mine & ~data.wrong]):.2f}"


def _found(data: Measures, sizes: list[int]) -> str:
    shares = [
        (data.found[(data.size == size) & (data.wrong == wrong)].mean()) for size in sizes for wrong in (False, True)
    ]
    names = [f"{kind} at {size} px" for size in sizes for kind in ("right", "wrong")]
    return ", ".join(f"{share:.1%} of {name}" for share, name in zip(shares, names, strict=True))


def _interval(data: Measures, scores: Floats, seed: int) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the AUC; pairs are drawn with both hands."""
    names = np.unique(data.pair)
    members = [np.flatnonzero(data.pair == name) for name in names]
    values = []
    for draw in bootstrap.draws(len(names), _DRAWS, seed):
        rows = np.concatenate([members[number] for number in np.repeat(np.arange(len(names)), draw)])
        values.append(auc(scores[rows][data.wrong[rows]], scores[rows][~data.wrong[rows]]))
    return bootstrap.percentiles(np.array(values))
