"""The dataset of drawn pairs of right and wrong hands: Parquet files with a row per pair, card and croissant file."""

import hashlib
import json
import re
import string
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.dataset import figures
from handdata.dataset.card import front_matter
from handdata.dataset.checksums import File, describe_file, write_checksums
from handdata.dataset.credits import DRAWN
from handdata.dataset.croissant import describe
from handdata.dataset.parquet import open_writer
from handdata.errors import UserError
from handdata.files import require_writable_folder, sha256_of, whole_folder, write_json, write_text
from handdata.markdown import markdown_table
from handdata.readers import read_json
from handdata.rows.schema import HAGRID_SPLITS, SPLITS, Column, features_of
from handdata.world.skeleton import GESTURES

TITLE = "Right and wrong drawn hands"
SUMMARY = (
    "Pairs of drawn hands, one right and one with known flaws of its anatomy: the same person, pose, light and scene."
    " For measuring whether a metric sees wrong hands."
)
LIMITS = (
    "Drawn hands lack most properties of photographs and of generated images: a judge that separates these hands"
    " need not do so in other pictures.",
    "The flaws are seven kinds that a program draws, each large enough to change 8 % of the hand's area where that is"
    " possible; generated images have others.",
)

# Columns that both hands of a pair have, after `right_` and `wrong_`.
_HAND = {
    "id": Column("string", "id of the picture; the same options draw it again"),
    "sha256": Column("string", "sha256 of the JPEG's bytes"),
    "fingers": Column("int32", "number of fingers, with the thumb"),
    "box": Column("list<float32>", "box of the hand, [x, y, width, height] in fractions of the picture"),
    "joints_2d": Column("list<list<float32>>", "21 x (x, y) in fractions of the picture, in MediaPipe's order"),
    "joints_3d": Column("list<list<float32>>", "21 x (x, y, z) in mm from the hand's middle: right, up, to the viewer"),
}
COLUMNS = {
    "right": Column("image", "picture of the right hand, a JPEG as it was drawn"),
    "wrong": Column("image", "picture of the wrong hand, a JPEG as it was drawn"),
    "gesture": Column("class", "gesture; with `natural`, only the one in whose place the pose was drawn"),
    "natural": Column("bool", "whether the hand takes a natural pose instead of the gesture's"),
    "flaws": Column("list<string>", "flaws of the wrong hand"),
    "changed": Column("float32", "share of the hand's area that the flaws change"),
    "side": Column("string", "left or right: the person's own hand"),
    "person": Column("string", "invented person; all pairs of a person are in one split"),
    "caption": Column("string", "true sentence about the picture, which does not name the gesture"),
    "size": Column("int32", "width and height of the pictures, in pixels"),
    **{f"right_{name}": Column(column.type, f"right hand: {column.meaning}") for name, column in _HAND.items()},
    **{f"wrong_{name}": Column(column.type, f"wrong hand: {column.meaning}") for name, column in _HAND.items()},
}

_TEMPLATE = Path(__file__).with_name("pairs.md")
_GROUP_ROWS = 100
_REPEATING = ["gesture", "side", "flaws.list.element"]
_SHOWN = 3  # pairs of a flaw on the contact sheet

Drawn = dict[str, Path]  # folders that `render --pairs` drew, by the name of their configuration
Rows = dict[str, dict[str, list[dict[str, Any]]]]  # by configuration and split


def drawn_folders(folder: Path) -> Drawn:
    """Return the folder, or those in it, that `render` drew, by name; empty for any other folder, as for a build."""
    if (folder / "recipe.toml").is_file() or not folder.is_dir():
        return {}
    inside = [folder] if (folder / "render.json").is_file() else sorted(folder.iterdir())
    return {path.absolute().name: path for path in inside if (path / "render.json").is_file()}


def assemble(folder: Path) -> Path:
    """Write the dataset of a folder's pairs into its `dataset/` and return that; a configuration per drawn folder.

    Equal pictures give equal bytes. Raises `UserError` for pictures that are not pairs and for changed files.
    """
    drawn = drawn_folders(folder)
    options = {name: _options(name, path) for name, path in drawn.items()}
    if len({each["seed"] for each in options.values()}) < len(options):
        raise UserError(f"two folders of {folder} have the same seed and so the same ids: draw one with another --seed")
    rows: Rows = {name: _rows(path, options[name]) for name, path in drawn.items()}
    require_writable_folder(folder / "dataset", "the folder of the pairs")
    with whole_folder(folder / "dataset") as partial:
        files = _write_data(partial, rows)
        listed = [asdict(file) for file in files]
        summary = {
            "rows": {name: {split: len(of[split]) for split in SPLITS} for name, of in rows.items()},
            "files": listed,
        }
        figures.contact_sheet(_sheet(rows), partial / "figures" / "contact_sheet.jpg", 2 * _SHOWN)
        write_text(partial / "README.md", _card(rows, options, summary))
        meanings = {name: column.meaning for name, column in COLUMNS.items()}
        schema = features_of(COLUMNS, list(GESTURES)).arrow_schema
        described = describe(TITLE, _words(), listed, schema, meanings, "one row per pair", "right_id")
        write_json(partial / "croissant.json", described)
        write_checksums(partial, files)
    return folder / "dataset"


def _options(name: str, folder: Path) -> dict[str, Any]:
    """Return the options that a folder was drawn with, its files checked."""
    stored = read_json(folder / "render.json") or {}
    options, files = stored.get("options"), stored.get("files")
    if not isinstance(options, dict) or not isinstance(files, dict) or not options.get("pairs"):
        raise UserError(f"{folder} has no pairs: draw them with `handdata render --pairs --out {folder}`")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "all":
        raise UserError(f"{folder}: its name becomes a configuration's: use letters, digits, '.', '_' and '-', not all")
    if options.get("gesture_file"):
        raise UserError(f"{folder} has gestures of files: draw pairs of the {len(GESTURES)} built-in gestures")
    for file, digest in files.items():
        if not (folder / file).is_file() or sha256_of(folder / file) != digest:
            raise UserError(f"{folder / file} was changed since it was drawn: run `handdata render` again")
    return options


def _rows(folder: Path, options: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the pairs of a folder by split, sorted by the right picture's id."""
    truths = [json.loads(line) for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    right = {truth["image_id"]: truth for truth in truths if truth["kind"] == "whole"}
    wrong = {truth["pair"]: truth for truth in truths if truth["kind"] == "wrong"}
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    ours = {theirs: split for split, theirs in HAGRID_SPLITS.items()}
    archives = {name: zipfile.ZipFile(folder / f"{name}.zip") for name in {t["gesture"] for t in wrong.values()}}
    for pair in sorted(wrong):
        row = _row(archives[right[pair]["gesture"]], right[pair], wrong[pair])
        rows[ours[right[pair]["split"]]].append(row | {"size": options["size"]})
    for archive in archives.values():
        archive.close()
    return rows


def _row(archive: zipfile.ZipFile, right: dict[str, Any], wrong: dict[str, Any]) -> dict[str, Any]:
    hand, flawed = right["hands"][0], wrong["hands"][0]
    row = {
        "gesture": list(GESTURES).index(right["gesture"]),
        "natural": hand["label"] == "no_gesture",
        "flaws": flawed["flaws"],
        "changed": flawed["changed"],
        "side": hand["side"],
        "person": right["user_id"],
        "caption": right["caption"],
    }
    for side, truth, of_hand in (("right", right, hand), ("wrong", wrong, flawed)):
        data = archive.read(f"{truth['gesture']}/{truth['image_id']}.jpg")
        row[side] = {"bytes": data, "path": f"{truth['image_id']}.jpg"}
        row |= {f"{side}_{name}": of_hand[name] for name in ("fingers", "box", "joints_2d", "joints_3d")}
        row |= {f"{side}_id": truth["image_id"], f"{side}_sha256": hashlib.sha256(data).hexdigest()}
    return row


def _write_data(folder: Path, rows: Rows) -> list[File]:
    schema, files = features_of(COLUMNS, list(GESTURES)).arrow_schema, []
    for name, split in ((name, split) for name, of in rows.items() for split in SPLITS if of[split]):
        path = f"data/{name}/{split}-00000-of-00001.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with open_writer(folder / path, schema, _REPEATING) as writer:
            writer.write_table(pa.Table.from_pylist(rows[name][split], schema), row_group_size=_GROUP_ROWS)
        files.append(describe_file(folder, path, len(rows[name][split])))
    return files


def _all(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, row) for name, of in rows.items() for split in SPLITS for row in of[split])


def _sheet(rows: Rows) -> figures.Sheet:
    """Return the sheet's lines: a flaw each, with right and wrong pictures next to each other."""
    lines: dict[str, list[bytes]] = {}
    chosen = sorted((row for _, row in _all(rows)), key=lambda row: (len(row["flaws"]), -row["size"], row["right_id"]))
    for row in chosen:
        pictures = lines.setdefault(row["flaws"][0], [])
        if len(pictures) < 2 * _SHOWN:
            pictures += [row["right"]["bytes"], row["wrong"]["bytes"]]
    return sorted(lines.items())


def _card(rows: Rows, options: dict[str, dict[str, Any]], summary: dict[str, Any]) -> str:
    values = {
        **DRAWN.licence, "pretty_name": TITLE, "language": ["en"], "task_categories": ["image-classification"],
        "tags": ["hands", "anatomy", "hand1000", "benchmark"],
    }  # fmt: skip
    columns = features_of(COLUMNS, list(GESTURES))._to_yaml_list()
    counts = Counter((name, flaw) for name, row in _all(rows) for flaw in row["flaws"])
    flaws = sorted({flaw for _, flaw in counts})
    fields = {
        "metadata": front_matter(values, summary, columns).strip(),
        "title": TITLE,
        "summary": SUMMARY,
        "example_id": "USER/NAME",
        "example": next(iter(rows)),
        "rows_table": markdown_table(
            ["configuration", *SPLITS, "size, px", "flaws per hand", "natural poses, %", "seed"],
            [[name, *summary["rows"][name].values(), *_drawn(options[name])] for name in rows],
        ),
        "flaws_table": markdown_table(
            ["flaw", *rows], [[flaw, *(counts[name, flaw] for name in rows)] for flaw in flaws]
        ),
        "columns_table": markdown_table(["column", "meaning"], [(f"`{k}`", c.meaning) for k, c in COLUMNS.items()]),
        "limits": "\n".join(f"- {line}" for line in LIMITS),
        "personal": "The pictures are drawn and show nobody; `person` identifies an invented person.",
    }
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(fields)


def _drawn(options: dict[str, Any]) -> list[Any]:
    return [options["size"], options["flaw_count"] or "1 to 3", round(100 * options["natural"]), options["seed"]]


def _words() -> dict[str, Any]:
    return {
        "description": SUMMARY,
        "license": DRAWN.licence_address,
        "url": "https://arxiv.org/abs/2408.15461",
        "creator": {"@type": "sc:Organization", "name": "users of hand1000"},
        "keywords": ["hands", "anatomy", "benchmark"],
        "rai:dataCollection": "The pictures were drawn by a program (`handdata render --pairs`); no person took part.",
        "rai:dataAnnotationProtocol": "Flaws, joints and boxes are the truth that the pictures were drawn from.",
        "rai:dataUseCases": "Measuring whether metrics and judges of generated images see wrong anatomy of hands.",
        "rai:dataLimitations": list(LIMITS),
        "rai:dataBiases": "Skin, sleeves and walls have few colours, drawn with equal probability.",
        "rai:personalSensitiveInformation": "none: the pictures show nobody",
    }
