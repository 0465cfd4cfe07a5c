"""The review page: rows with image, landmarks, boxes, caption, text and remarks, in one file without a server."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.builds.folder import BuildFolder
from handdata.errors import UserError
from handdata.files import write_text
from handdata.gestures import also, gestures
from handdata.readers import read_text
from handdata.rows import decisions
from handdata.rows.decisions import Decision
from handdata.rows.manifest import read_manifest
from handdata.rows.shards import SHARD_ROWS, read_shard, shard_count
from handdata.shipped import filled_page
from handdata.stages import STAGES
from handdata.texts.checks import DRAFT_FAILURES, FAILURES, REMARKS, require_fit

_TEMPLATE = Path(__file__).with_name("review.html")
_COLUMNS = ("image_id", "gesture", "split", "subject", "bboxes", "labels")
_FROM_PAGE = ("accepted", "rejected", "edited")  # decisions that the page makes; a removal is a command of its own
_DIGITS = 4  # decimals of a landmark: a ten-thousandth of the image


@dataclass(frozen=True)
class Applied:
    """Number of decisions in a file that the review page exported."""

    new: int
    known: int  # decisions that the build already had


def write_page(build: Path) -> Path:
    """Write BUILD/review.html; return its path. Raises `UserError` for a build without texts."""
    rows = read_rows(build)
    if not any(row["text"] for row in rows):
        raise UserError(f"{build} has no texts to review: run `handdata rewrite {build}` first")
    path = build / "review.html"
    with also(BuildFolder.gestures_of(build)):
        write_text(path, page(rows, build.resolve().name))
    return path


def page(rows: list[dict[str, Any]], name: str) -> str:
    """Return the page of these rows as HTML. Rows are escaped JSON, so that no text can become markup or script."""
    phrases = {gesture: gestures()[gesture].phrase for gesture in {row["gesture"] for row in rows}}
    meanings = {**FAILURES, **DRAFT_FAILURES, **REMARKS}
    data = {"name": name, "rows": rows, "phrases": phrases, "meanings": meanings}
    return filled_page(_TEMPLATE, "ROWS-AS-JSON", data)


def read_rows(build: Path) -> list[dict[str, Any]]:
    """Return the page's fields of each row, with the decision that applies to it, in manifest order."""
    manifest = read_manifest(build, columns=list(_COLUMNS)).to_pylist()
    outputs: list[dict[str, Any]] = [{} for _ in manifest]
    ids = [row["image_id"] for row in manifest]
    for stage in filter(None, (stage.columns for stage in STAGES)):
        for shard in range(shard_count(len(manifest))):
            table = read_shard(build, stage, shard, ids[shard * SHARD_ROWS :][:SHARD_ROWS])
            for place, row in enumerate(table.to_pylist() if table is not None else ()):
                outputs[shard * SHARD_ROWS + place] |= {key: value for key, value in row.items() if value is not None}
    decided = decisions.replay(build)
    rows = [_row(row, output, decided) for row, output in zip(manifest, outputs, strict=True)]
    return [row for row in rows if row["decision"] != "dropped"]


def apply_decisions(build: Path, exported: Path) -> Applied:
    """Add the decisions of an exported file to the build; return how many were new and known.

    Raises `UserError`, and adds none of them, if the file is not from this build's page or an edited text fails the
    checks.
    """
    rows = {row["image_id"]: row for row in read_rows(build)}
    own, given = BuildFolder.gestures_of(build), []
    for number, line in enumerate(read_text(exported, "--apply").split("\n"), 1):  # a text may hold other line ends
        if line.strip():
            decision = _exported(line, f"--apply {exported}, line {number}")
            if decision.image_id not in rows:
                raise UserError(
                    f"--apply {exported}, line {number} decides about {decision.image_id}, which is not in {build}"
                )
            if decision.what == "edited":
                row = rows[decision.image_id]
                with also(own):
                    require_fit(row["image_id"], row["caption"] or "", row["gesture"], decision.text or "")
            given.append(decision)
    held = decisions.replay(build).images
    new = [decision for decision in given if held.get(str(decision.image_id)) != decision]
    decisions.append(build, new)
    return Applied(len(new), len(given) - len(new))


def _exported(line: str, where: str) -> Decision:
    """Return the decision of a line that the page exported. Raises `UserError` for any other line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not {"what", "image_id"} <= set(entry):
        raise UserError(f"{where} is not a decision that the review page exported: export the file again")
    if entry["what"] not in _FROM_PAGE:
        raise UserError(f"{where}: a decision is one of {', '.join(_FROM_PAGE)}, not {str(entry['what'])[:40]!r}")
    decision = Decision(entry["what"], image_id=entry["image_id"], text=entry.get("text"))
    decisions.require_whole(decision, where)
    return decision


def _row(row: dict[str, Any], output: dict[str, Any], decided: decisions.Decisions) -> dict[str, Any]:
    image_id, gesture = row["image_id"], row["gesture"]
    hands = [[[round(x, _DIGITS), round(y, _DIGITS)] for x, y, _ in hand] for hand in output.get("hand_landmarks", ())]
    return {
        "image_id": image_id,
        "gesture": gesture,
        "split": row["split"],
        "image": f"images/{gesture}/{image_id}.jpg",
        "boxes": row["bboxes"] or [],
        "labels": row["labels"] or [],
        "hands": hands,
        "gesture_hand": output.get("gesture_hand", -1),
        "caption": output.get("caption"),
        "text": output.get("text"),
        "rewrite": output.get("rewrite"),
        "checks": output.get("checks", output.get("draft_checks", [])),
        "reason": output.get("reason"),
        "decision": decided.about(image_id, row["subject"]),
        "edited": decided.text(image_id),
    }
