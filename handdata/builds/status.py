"""Say what became of a build's rows: per stage, what is done, failed and why, and left."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from handdata.builds.build import Step, open_recipe
from handdata.recipe import Recipe
from handdata.rows.decisions import replay
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import REASONS, STAGE_COLUMNS
from handdata.rows.shards import shard_count, shard_path
from handdata.stages import assemble


def status(build: Path) -> dict[str, Any]:
    """Return the state of a build as plain data. Raises `UserError` if the folder is no build."""
    recipe = open_recipe(build)
    run = json.loads((build / "run.json").read_text()) if (build / "run.json").exists() else {}
    found: dict[str, Any] = {"name": recipe.name, "build": str(build), "rows": 0, "spares": 0, "stages": {}}
    found["selection"] = run.get("selection", {})
    if not (build / "manifest.parquet").exists():
        return found
    rows = read_manifest(build, columns=["image_id", "subject", "spare"])
    found["rows"], found["spares"] = rows.num_rows, sum(rows["spare"].to_pylist())
    decisions = replay(build)
    pairs = zip(rows["image_id"].to_pylist(), rows["subject"].to_pylist(), strict=True)
    found["decisions"] = dict(Counter(filter(None, (decisions.about(*pair) for pair in pairs))))
    for stage in STAGE_COLUMNS:
        if (build / stage).is_dir():
            found["stages"][stage] = _stage(build, stage, rows.num_rows)
    summary = assemble.read_summary(build)
    if summary and (build / "dataset").is_dir():
        current = assemble.is_current(build, recipe)
        found["dataset"] = {"rows": summary["rows"], "shortfalls": summary["shortfalls"], "current": current}
    return found


def text(found: dict[str, Any]) -> str:
    """Return the state of a build for people."""
    lines = [f"{found['name']} in {found['build']}"]
    if not found["rows"]:
        return "\n".join([*lines, "nothing is selected yet"])
    lines.append(f"{found['rows']:,} images selected, {found['spares']:,} of them spare")
    lines.extend(_shortfalls(found["selection"].get("shortfalls", [])))
    for decision, count in sorted(found["decisions"].items()):
        lines.append(f"  {count:,} {decision} by people")
    lines.append(f"{'stage':<12}{'done':>9}{'failed':>9}{'left':>9}")
    for stage, counts in found["stages"].items():
        lines.append(f"{stage:<12}{counts['done']:>9,}{sum(counts['failed'].values()):>9,}{counts['left']:>9,}")
        for reason, count in sorted(counts["failed"].items(), key=lambda pair: -pair[1]):
            lines.append(f"  {count:>6,}  {reason}: {REASONS[reason]}")
        lines.extend(f"          {example}" for example in counts.get("examples", ()))
    return "\n".join([*lines, *_dataset(found.get("dataset"))])


def dry_run(build: Path, recipe: Recipe, steps: tuple[Step, ...]) -> str:
    """Return what a build would do, for people; nothing is read but the build folder."""
    from handdata.builds import plan

    lines = []
    if (build / "recipe.toml").is_file():
        lines += [text(status(build)), ""]
    if not (build / "manifest.parquet").exists():
        lines += [plan.report(plan.plan(recipe, offline=True)), ""]
    names = ", ".join(step.name for step in steps)
    return "\n".join([*lines, f"would run in {build}: {names} (finished and unchanged rows are kept)"])


def _dataset(dataset: dict[str, Any] | None) -> list[str]:
    """Return what lies in `dataset/`: the rows of each gesture and split, and what is short."""
    if dataset is None:
        return ["dataset: not assembled yet"]
    count = sum(sum(splits.values()) for splits in dataset["rows"].values())
    state = "up to date" if dataset["current"] else "older than the build: `handdata build` renews it"
    lines = [f"dataset: {count:,} rows, {state}"]
    for gesture, splits in dataset["rows"].items():
        counts = [f"{splits[split]:,} {split}" for split in ("train", "validation", "test") if split in splits]
        lines.append(f"  {gesture:<14}" + ", ".join(counts))
    short = "  {gesture}, {split}: {there:,} of {asked:,} rows; no spares are left"
    return [*lines, *(short.format(**one) for one in dataset["shortfalls"])]


def _shortfalls(lacking: list[dict[str, Any]]) -> list[str]:
    """Return a line for each gesture of which there are fewer images than asked for."""
    by_gesture: dict[str, list[str]] = {}
    for lack in lacking:
        by_gesture.setdefault(lack["gesture"], []).append(f"{lack['lacking']:,} {lack['split']}")
    return [f"  {gesture}: lacks {', '.join(counts)}" for gesture, counts in by_gesture.items()]


def _stage(build: Path, stage: str, rows: int) -> dict[str, Any]:
    reasons: list[str | None] = []
    for shard in range(shard_count(rows)):
        path = shard_path(build, stage, shard)
        if path.exists():
            reasons += pq.read_table(path, columns=["reason"])["reason"].to_pylist()
    failed = Counter(reason for reason in reasons if reason)
    counts = {"done": len(reasons) - sum(failed.values()), "failed": dict(failed), "left": rows - len(reasons)}
    if stage == "fetch":
        counts |= _journal(build, rows)
    return counts


def _journal(build: Path, rows: int) -> dict[str, Any]:
    """Return the counts of a fetch that may be under way, from its journal."""
    path = build / "fetch" / "journal.jsonl"
    if not path.exists():
        return {}
    wanted = set(read_manifest(build, columns=["image_id"])["image_id"].to_pylist())
    text = path.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    latest = {receipt["image_id"]: receipt for receipt in map(json.loads, lines) if receipt["image_id"] in wanted}
    failed = [receipt for receipt in latest.values() if receipt.get("reason")]
    examples = [f"{one['image_id']}: {one['detail'][:160]}" for one in failed if one.get("detail")][:3]
    return {
        "done": len(latest) - len(failed),
        "failed": dict(Counter(receipt["reason"] for receipt in failed)),
        "left": rows - len(latest),
        "examples": examples,
    }
