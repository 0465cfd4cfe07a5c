"""The review page: every row with image, landmarks, box, caption, text and remarks, in one file without a server."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from handdata.errors import UserError
from handdata.gestures import gestures
from handdata.rows import decisions
from handdata.rows.decisions import Decision
from handdata.rows.manifest import read_manifest
from handdata.rows.shards import SHARD_ROWS, shard_count, shard_path
from handdata.texts.checks import ALLOWED_TO_PEOPLE, DRAFT_FAILURES, FAILURES, REMARKS, explain, failures

_TEMPLATE = Path(__file__).with_name("review.html")
_COLUMNS = ("image_id", "gesture", "split", "subject", "bboxes", "labels")
_STAGES = ("landmarks", "captions", "texts", "checks")
_POINTS = 4  # decimals of a landmark: a ten-thousandth of the image


def write_page(build: Path) -> str:
    """Write BUILD/review.html and return a line that says where it is. Raises `UserError` where no text is made yet."""
    rows = read_rows(build)
    if not any(row["text"] for row in rows):
        raise UserError(f"{build} has no texts to review: run `handdata rewrite {build}` first")
    path = build / "review.html"
    partial = path.with_suffix(".partial")
    partial.write_text(page(rows, build.resolve().name), encoding="utf-8")
    partial.replace(path)
    return f"open {path} in a browser: {len(rows):,} rows; then `handdata review {build} --apply FILE`"


def page(rows: list[dict[str, Any]], name: str) -> str:
    """Return the page of these rows. Nothing in a row can become markup or script: it is data, escaped once more."""
    phrases = {gesture: gestures()[gesture].phrase for gesture in {row["gesture"] for row in rows}}
    meanings = {**FAILURES, **DRAFT_FAILURES, **REMARKS}
    data = json.dumps({"name": name, "rows": rows, "phrases": phrases, "meanings": meanings}, ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        data = data.replace(mark, f"\\u{ord(mark):04x}")
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = template.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.replace("SCRIPT-HASH", f"sha256-{digest}").replace("ROWS-AS-JSON", data)


def read_rows(build: Path) -> list[dict[str, Any]]:
    """Return what the page shows of each row, with the decision that holds for it, in manifest order."""
    manifest = read_manifest(build, columns=list(_COLUMNS)).to_pylist()
    found: list[dict[str, Any]] = [{} for _ in manifest]
    for stage in _STAGES:
        for shard in range(shard_count(len(manifest))):
            path = shard_path(build, stage, shard)
            for place, row in enumerate(pq.read_table(path).to_pylist() if path.exists() else ()):
                found[shard * SHARD_ROWS + place] |= {key: value for key, value in row.items() if value is not None}
    decided = decisions.replay(build)
    pairs = zip(manifest, found, strict=True)
    rows = [_row(row, more, decided) for row, more in pairs]
    return [row for row in rows if row["decision"] != "dropped"]


def apply(build: Path, exported: Path) -> str:
    """Add the decisions of an exported file to the build and return how many there were.

    Raises `UserError`, and takes none over, if the file is not one of this build's page or an edited text is not fit.
    """
    rows = {row["image_id"]: row for row in read_rows(build)}
    try:
        entries = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [Decision(str(e["what"]), image_id=str(e["image_id"]), text=e.get("text")) for e in entries]  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"there is no file {exported} (--apply)") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--apply {exported} is not a file that the review page exported") from None
    for decision in found:
        if decision.image_id not in rows:
            raise UserError(f"--apply {exported} decides about {decision.image_id}, which is not in {build}")
        if decision.what == "edited":
            _require_fit(decision, rows[decision.image_id])
    held = decisions.replay(build).images
    new = [decision for decision in found if held.get(str(decision.image_id)) != decision]
    decisions.append(build, new)
    return f"{len(new):,} decisions taken over into {build / 'decisions.jsonl'}, {len(found) - len(new):,} were there"


def _require_fit(decision: Decision, row: dict[str, Any]) -> None:
    found = failures(row["caption"] or "", row["gesture"], decision.text or "")
    barred = {name: words for name, words in found.items() if name not in ALLOWED_TO_PEOPLE}
    if barred:
        raise UserError(f"the text written for {decision.image_id} is not fit: {explain(barred, row['gesture'])}")


def _row(row: dict[str, Any], more: dict[str, Any], decided: decisions.Decisions) -> dict[str, Any]:
    image_id, gesture = row["image_id"], row["gesture"]
    hands = [[[round(x, _POINTS), round(y, _POINTS)] for x, y, _ in hand] for hand in more.get("hand_landmarks", ())]
    return {
        "image_id": image_id,
        "gesture": gesture,
        "split": row["split"],
        "image": f"images/{gesture}/{image_id}.jpg",
        "boxes": row["bboxes"] or [],
        "labels": row["labels"] or [],
        "hands": hands,
        "gesture_hand": more.get("gesture_hand", -1),
        "caption": more.get("caption"),
        "text": more.get("text"),
        "rewrite": more.get("rewrite"),
        "checks": more.get("checks", more.get("draft_checks", [])),
        "reason": more.get("reason"),
        "decision": decided.about(image_id, row["subject"]),
        "edited": decided.text(image_id),
    }
