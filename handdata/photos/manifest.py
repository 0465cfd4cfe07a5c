"""The manifest of a place's photographs: one row each, with box, split and the text that came with it.

Beside the columns of every manifest it has `given`, the text that came with a photograph, and `remarks`, the names of
`texts.checks.REMARKS` that only the comparison of all photographs shows.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import UserError
from handdata.gestures import gestures as all_gestures
from handdata.huggingface import Place
from handdata.photos import forms, splits
from handdata.photos.forms import Photo
from handdata.photos.hands import FEWEST, Agreement, agreement, box_of
from handdata.photos.measure import Measured, measure
from handdata.photos.persons import SALT, pseudonym
from handdata.recipe import Recipe
from handdata.rows.decisions import Decisions
from handdata.rows.manifest import IMAGE, SOURCES, Manifest, SourceFacts
from handdata.rows.oddities import ODDITIES, Oddities
from handdata.rows.schema import MANIFEST, SPLITS
from handdata.sources.archive import FOLDER
from handdata.texts.checks import explain, failures
from handdata.texts.clip_tokens import CONTEXT, clip_tokens

VERSION = 2  # increased when a change of the code changes the rows
OPTION = "[source] images"

_COLUMNS = pa.schema([*MANIFEST, ("given", pa.string()), ("remarks", pa.list_(pa.string()))])
_NAMED = 8  # names in a sentence


@dataclass
class _Row:
    """A photograph that can be used, while its manifest row is made."""

    photo: Photo
    measured: Measured
    hand: int = -1
    differs: bool = False
    split: str = ""
    group: str = ""


def make_manifest(
    place: Place, recipe: Recipe, folder: Path, decisions: Decisions, progress: bool, salt: str = ""
) -> Manifest:
    """Read, measure and split the photographs of a place; `folder` is the build's own for copies and measurements.

    `salt` enters the names of persons (`persons.pseudonym`), and nothing else.
    Raises `UserError` for a place without usable photographs or without hands, and for a text that cannot be used.
    """
    found = forms.read(place, recipe.select.gestures, folder / "copies", OPTION)
    _check_texts(found.photos, recipe.photos.texts)
    measured = measure(found.photos, recipe, folder / "photos.parquet", progress)
    odd = Oddities()
    _note("photo-of-other-gesture", found.left_out, odd, progress)
    rows = _usable(found.photos, measured, odd, progress)
    if not any(len(row.measured.landmarks) for row in rows):
        raise UserError(
            f"{OPTION} {place}: no hand is found in any of its {len(found.photos):,} photographs: give photographs in"
            " which the hand is in full view, or lower landmarks.detection"
        )
    for gesture in recipe.select.gestures:
        _choose_hands([row for row in rows if row.photo.gesture == gesture], gesture, odd, progress)
    rows = [row for row in rows if row.hand >= 0]
    _split(rows, recipe, progress)
    for row in rows:
        row.group = pseudonym(row.group, salt)
    rows = [row for row in rows if decisions.about(str(row.measured.image_id), row.group) != "dropped"]
    metadata = {
        SALT: salt.encode(),
        SOURCES: json.dumps(_facts(rows)).encode(),
        IMAGE: json.dumps(asdict(recipe.image)).encode(),
    }
    return Manifest(_table(rows, recipe).replace_schema_metadata(metadata), odd, len(found.photos))


def _check_texts(photos: list[Photo], texts: str) -> None:
    """Raise `UserError` for the first text that cannot be used as it is, and for photographs without one."""
    if texts == "none":
        return
    lacking = [photo.name for photo in photos if not photo.text]
    kind = "caption" if texts == "caption" else "text"
    if lacking:
        raise UserError(
            f"--texts {texts}: {_names(lacking)} of {len(photos):,} photographs have no {kind}: add it in a .txt file"
            " of the same name, or leave --texts out"
        )
    tokens = clip_tokens()
    for photo in photos:
        count = tokens.count(photo.text)
        if count > CONTEXT:
            raise UserError(
                f"--texts {texts}: the {kind} of {photo.name} has {count} CLIP tokens, and the limit is {CONTEXT}:"
                " shorten it, or leave --texts out"
            )
        failed = failures(photo.text, photo.gesture, photo.text) if texts == "final" else {}
        if failed:
            raise UserError(
                f"--texts final: the text of {photo.name} cannot be kept, since {explain(failed, photo.gesture)};"
                " correct it, or use --texts caption, which makes each caption name the gesture"
            )


def _usable(photos: list[Photo], measured: list[Measured], odd: Oddities, progress: bool) -> list[_Row]:
    """Return the photographs that can be decoded, each picture once; the others are counted and named."""
    rows: list[_Row] = []
    seen: dict[str, str] = {}
    unreadable, repeated = [], []
    for photo, of_photo in zip(photos, measured, strict=True):
        if of_photo.reason or of_photo.image_id is None:
            unreadable.append(f"{photo.name} ({of_photo.reason})")
        elif of_photo.image_id in seen:
            repeated.append(f"{photo.name} (as {seen[of_photo.image_id]})")
        else:
            seen[of_photo.image_id] = photo.name
            rows.append(_Row(photo, of_photo))
    _note("photo-unreadable", unreadable, odd, progress)
    _note("photo-repeated", repeated, odd, progress)
    return rows


def _note(kind: str, names: list[str], odd: Oddities, progress: bool) -> None:
    """Count photographs of one kind for run.json, and print their names."""
    odd.add_many(kind, names[:3], len(names))
    if names and progress:
        print(f"handdata: {len(names):,} photographs: {ODDITIES[kind]}: {_names(names)}", file=sys.stderr)


def _choose_hands(rows: list[_Row], gesture: str, odd: Oddities, progress: bool) -> None:
    """Set the hand of each photograph of a gesture, and whether it differs from the others."""
    found: Agreement = agreement([row.measured.hands for row in rows])
    for row, hand, agrees in zip(rows, found.chosen, found.agrees, strict=True):
        row.hand, row.differs = hand, hand >= 0 and not agrees
    _note("photo-without-hand", [row.photo.name for row in rows if row.hand < 0], odd, progress)
    _note("photo-differs", [row.photo.name for row in rows if row.differs], odd, progress)
    if not progress or not rows:
        return
    if not found.compared:
        print(
            f"handdata: {gesture}: with fewer than {FEWEST} photographs of hands they cannot be compared, and the"
            " largest hand of each makes the gesture",
            file=sys.stderr,
        )
    if found.other:
        others = [rows[number].photo.name for number in found.other]
        print(
            f"handdata: {gesture}: {len(others)} of {len(rows)} photographs seem to show another gesture, alike among"
            f" themselves: {_names(others)}; remove them, or put them into a folder of their own",
            file=sys.stderr,
        )


def _split(rows: list[_Row], recipe: Recipe, progress: bool) -> None:
    ids = [str(row.measured.image_id) for row in rows]
    subjects = [row.photo.subject for row in rows]
    phashes, dhashes = [row.measured.phash for row in rows], [row.measured.dhash for row in rows]
    names = splits.groups(ids, subjects, phashes, dhashes)
    chosen = splits.split([row.photo.gesture for row in rows], names, recipe.select.seed)
    for row, name, split in zip(rows, names, chosen, strict=True):
        row.group, row.split = name, split
    empty = [split for split in SPLITS if split not in chosen]
    if empty and progress:
        print(
            f"handdata: {len(rows)} photographs in {len(set(names))} groups are too few for every split:"
            f" {' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty",
            file=sys.stderr,
        )


def _table(rows: list[_Row], recipe: Recipe) -> pa.Table:
    """Return the manifest's rows, ordered by rank, gesture and split as those of other sources."""
    gestures = recipe.select.gestures
    ranked: dict[tuple[str, str], int] = {}
    records = []
    for row in sorted(rows, key=lambda row: str(row.measured.image_id)):
        key = (row.photo.gesture, row.split)
        ranked[key] = ranked.get(key, -1) + 1
        records.append((ranked[key], gestures.index(key[0]), SPLITS.index(key[1]), row))
    records.sort(key=lambda record: record[:3])
    return pa.Table.from_pylist([_record(row, rank, recipe) for rank, _, _, row in records], schema=_COLUMNS)


def _record(row: _Row, rank: int, recipe: Recipe) -> dict[str, Any]:
    photo, measured = row.photo, row.measured
    boxes, labels = _boxes(row)
    return {
        "image_id": measured.image_id,
        "gesture": photo.gesture,
        "split": row.split,
        "rank": rank,
        "spare": False,
        "subject": row.group,
        "hagrid_split": "",
        "bboxes": boxes,
        "labels": labels,
        "source": _source(photo),
        "member": photo.member,
        "offset": FOLDER,
        "compressed_size": measured.size,
        "size": measured.size,
        "method": FOLDER,
        "crc32": measured.crc32,
        "given": photo.text if recipe.photos.texts != "none" else None,
        "remarks": ["image:gesture-differs"] if row.differs else [],
    }


def _boxes(row: _Row) -> tuple[list[list[float]], list[str]]:
    """Return the boxes of all hands and their labels; of a gesture of two hands, one box around both."""
    hands, aspect, gesture = row.measured.hands, row.measured.aspect, row.photo.gesture
    if all_gestures()[gesture].hands == 2:
        return [box_of(hands.reshape(-1, 2), aspect)], [gesture]
    labels = [gesture if number == row.hand else "no_gesture" for number in range(len(hands))]
    return [box_of(hand, aspect) for hand in hands], labels


def _source(photo: Photo) -> str:
    """Return the value of the column `source`. Files that were copied under other names have a source of their own."""
    return f"{photo.source} (copied)" if photo.folder.name == "copies" else photo.source


def _facts(rows: Sequence[_Row]) -> dict[str, Any]:
    places = {_source(row.photo): str(row.photo.folder.absolute()) for row in rows}
    return {name: asdict(SourceFacts((place,), 0, {place: ""})) for name, place in places.items()}


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"
