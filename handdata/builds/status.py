"""The state of a build: rows that are done, failed and left by stage, decisions, and the dataset."""

from collections import Counter
from pathlib import Path
from typing import Any

from handdata.builds.folder import BuildFolder
from handdata.recipe import Recipe
from handdata.rows.decisions import replay
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import REASONS, SPLITS
from handdata.rows.shards import SHARD_ROWS, read_shard, shard_count
from handdata.rows.shortfalls import of_dataset, of_selection
from handdata.sources.journal import read_receipts
from handdata.stages import STAGES, StageSpec, assemble
from handdata.store.store import open_store


def status(build: BuildFolder) -> dict[str, Any]:
    """Return the state of a build as plain data."""
    path = build.path
    build.store.bring_all(build.own_rows)
    state: dict[str, Any] = {"name": build.recipe.name, "build": build.store.place}
    state |= {} if build.store.place == str(path) else {"copy": str(path)}
    state |= {"rows": 0, "spares": 0, "stages": {}}
    state["selection"] = build.record().get("selection", {})
    state["converted"] = build.record().get("converted", {})
    if not (path / "manifest.parquet").exists():
        return state
    rows = read_manifest(path, columns=["image_id", "subject", "spare"])
    state["rows"], state["spares"] = rows.num_rows, sum(rows["spare"].to_pylist())
    decisions = replay(path)
    pairs = zip(rows["image_id"].to_pylist(), rows["subject"].to_pylist(), strict=True)
    state["decisions"] = dict(Counter(filter(None, (decisions.about(*pair) for pair in pairs))))
    folders = [stage.columns for stage in STAGES if stage.columns and (path / stage.columns).is_dir()]
    state["stages"] = {folder: _counts(path, folder, rows["image_id"].to_pylist()) for folder in folders}
    summary = assemble.read_summary(path)
    if summary and (path / "dataset").is_dir():
        current = assemble.is_current(path, build.recipe)
        state["dataset"] = {"rows": summary["rows"], "shortfalls": summary["shortfalls"], "current": current}
    return state


def text(state: dict[str, Any]) -> str:
    """Return the state of a build as lines for people."""
    lines = [f"{state['name']} in {state['build']}"]
    lines += [f"copy of this machine, with the dataset: {state['copy']}"] if "copy" in state else []
    if not state["rows"]:
        return "\n".join([*lines, "no images are selected yet"])
    lines.append(f"{state['rows']:,} images selected, {state['spares']:,} of them spare")
    lines.extend(f"  {of_selection(shortfall)}" for shortfall in state["selection"].get("shortfalls", []))
    if state["converted"]:
        counts = ", ".join(f"{count:,} {word}" for word, count in state["converted"].items())
        lines.append(f"  converted to sRGB in three channels: {counts}")
    for decision, count in sorted(state["decisions"].items()):
        lines.append(f"  {count:,} {decision} by people")
    width = max(map(len, ("stage", *state["stages"]))) + 2
    lines.append(f"{'stage':<{width}}{'done':>9}{'failed':>9}{'left':>9}")
    for stage, counts in state["stages"].items():
        lines.append(f"{stage:<{width}}{counts['done']:>9,}{sum(counts['failed'].values()):>9,}{counts['left']:>9,}")
        for reason, count in sorted(counts["failed"].items(), key=lambda pair: -pair[1]):
            lines.append(f"  {count:>6,}  {reason}: {REASONS.get(reason, '')}")
        lines.extend(f"          {example}" for example in counts.get("examples", ()))
    return "\n".join([*lines, *_dataset(state.get("dataset"))])


def dry_run(out: Path, recipe: Recipe, stages: tuple[StageSpec, ...]) -> str:
    """Return the plan of a run as lines for people. Only the build folder is read."""
    from handdata.builds import plan

    lines, store = [], open_store(out)
    store.bring(store.folder / "recipe.toml", store.folder / "manifest.parquet")
    if (store.folder / "recipe.toml").is_file():
        lines += [text(status(BuildFolder.open(out))), ""]
    if recipe.source.kind == "photos":
        lines += [f"all photographs of {', '.join(recipe.source.images)} with a hand are taken", ""]
    elif not (store.folder / "manifest.parquet").exists():
        lines += [plan.report(plan.plan(recipe, offline=True)), ""]
    names = ", ".join(stage.name for stage in stages)
    return "\n".join([*lines, f"would run in {store.place}: {names} (finished and unchanged rows are kept)"])


def _dataset(dataset: dict[str, Any] | None) -> list[str]:
    """Return lines on `dataset/`: the rows of each gesture and split, and shortfalls."""
    if dataset is None:
        return ["dataset: not assembled yet"]
    count = sum(sum(splits.values()) for splits in dataset["rows"].values())
    state = "up to date" if dataset["current"] else "older than the build: `handdata build` rebuilds it"
    lines = [f"dataset: {count:,} rows, {state}"]
    width = max(map(len, dataset["rows"]), default=0) + 2
    for gesture, splits in dataset["rows"].items():
        counts = [f"{splits[split]:,} {split}" for split in SPLITS if split in splits]
        lines.append(f"  {gesture:<{width}}" + ", ".join(counts))
    return [*lines, *(f"  {of_dataset(shortfall)}" for shortfall in dataset["shortfalls"])]


def _counts(build: Path, folder: str, image_ids: list[str]) -> dict[str, Any]:
    """Return the number of rows that a stage has done, failed by reason, and left."""
    reasons: list[str | None] = []
    for shard in range(shard_count(len(image_ids))):
        table = read_shard(build, folder, shard, image_ids[shard * SHARD_ROWS :][:SHARD_ROWS])
        reasons += table["reason"].to_pylist() if table is not None else ()
    failed = Counter(reason for reason in reasons if reason)
    done, left = len(reasons) - sum(failed.values()), len(image_ids) - len(reasons)
    counts = {"done": done, "failed": dict(failed), "left": left}
    return {**counts, **_journal(build, set(image_ids))} if folder == "fetch" else counts


def _journal(build: Path, image_ids: set[str]) -> dict[str, Any]:
    """Return the counts of a fetch that may be running, from its journals."""
    latest = {image_id: receipt for image_id, receipt in read_receipts(build)[0].items() if image_id in image_ids}
    if not latest:
        return {}
    failed = [receipt for receipt in latest.values() if receipt.reason]
    details = [f"{receipt.image_id}: {receipt.detail[:160]}" for receipt in failed if receipt.detail]
    return {
        "done": len(latest) - len(failed),
        "failed": dict(Counter(receipt.reason for receipt in failed)),
        "left": len(image_ids) - len(latest),
        "examples": details[:3],
    }
