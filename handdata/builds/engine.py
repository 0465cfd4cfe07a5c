"""Run a stage over all shards of a build: in a plain loop, in several processes, or on a Ray cluster.

A stage is a class. Its constructor loads the model; its call takes columns (a dict of equal-length lists) and returns
the columns it adds, with `reason` (None where all is well). This module alone knows that there are engines.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.errors import Unfinished, UserError
from handdata.machine import map_unordered
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import REASONS, STAGE_COLUMNS
from handdata.rows.shards import FINGERPRINT, KEY, image_path, shard_count, shard_path, stored_key, write_table
from handdata.stages import Columns, Stage, StageReport


def run(
    stage: type[Stage], options: Any, build: Path, engine: str = "local", workers: int = 1, progress: bool = True
) -> StageReport:
    """Bring one stage of a build up to date and return what became of its rows.

    Shards that are finished, made from the same inputs and free of failures that a second try could mend are kept.
    The rows do not depend on the engine or the number of workers. Raises whatever the stage raises.
    """
    from tqdm import tqdm

    rows = read_manifest(build, columns=["image_id"]).num_rows
    remove_partial_files(build / stage.name)
    arguments = {"stage": stage, "options": options, "build": build}
    report = StageReport()
    with tqdm(total=rows, desc=stage.name, unit="row", disable=None if progress else True) as bar:
        for outcome in ENGINES[engine](arguments, shard_count(rows), workers):
            report.rows += outcome["rows"]
            report.made_shards += outcome["made"]
            report.kept_shards += not outcome["made"]
            report.failed.update(outcome["failed"])
            bar.update(outcome["rows"])
    return report


class ShardWorker:
    """Make one shard of a stage: the callable that every engine hands the numbers of the shards to."""

    def __init__(self, stage: type[Stage], options: Any, build: Path) -> None:
        self.stage, self.options, self.build = stage, options, build
        self._loaded: Stage | None = None  # the model is loaded for the first shard that needs it

    def __call__(self, shard: int) -> dict[str, Any]:
        """Bring one shard up to date; return `rows`, `made` (bool) and `failed` (rows by reason)."""
        columns, failed_earlier = read_inputs(self.build, self.stage.inputs, shard, self.stage.name)
        key = input_key(self.stage, self.options, columns, failed_earlier)
        path = shard_path(self.build, self.stage.name, shard)
        reasons = _finished_reasons(path, key, self.stage.final_reasons)
        made = reasons is None
        if reasons is None:
            if self._loaded is None:
                self._loaded = self.stage(self.options)
            table = _make(self._loaded, columns, failed_earlier)
            fingerprint = json.dumps(self.stage.fingerprint(self.options), ensure_ascii=False)
            write_table(table.replace_schema_metadata({KEY: key, FINGERPRINT: fingerprint}), path)
            reasons = table["reason"].to_pylist()
        return {"rows": len(reasons), "made": made, "failed": Counter(filter(None, reasons))}

    def close(self) -> None:
        """Let a stage that has a method `close` release its model."""
        release = getattr(self._loaded, "close", None)
        if release is not None:
            release()
        self._loaded = None


def read_inputs(build: Path, inputs: tuple[str, ...], shard: int, stage: str) -> tuple[Columns, list[bool]]:
    """Return a shard's rows as columns, from the manifest and the stages that fill them, and which rows failed earlier.

    `image_id` is always among the columns; `image` is the bytes of the stored file, None where it is missing. Raises
    `UserError` where a stage that fills an input has not been run.
    """
    manifest = read_manifest(build, shard)
    columns: Columns = {"image_id": manifest["image_id"].to_pylist()}
    suppliers = {name for name, schema in STAGE_COLUMNS.items() if set(schema.names) & set(inputs)}
    if "image" in inputs and (build / "fetch").is_dir():
        suppliers.add("fetch")
    failed = [False] * manifest.num_rows
    for supplier in STAGE_COLUMNS:
        if supplier not in suppliers:
            continue
        path = shard_path(build, supplier, shard)
        if not path.exists():
            raise UserError(f"'{stage}' needs '{supplier}', of which {build} lacks shard {shard}: run that first")
        table = pq.read_table(path)
        assert table["image_id"].equals(manifest["image_id"]), f"{path} holds other rows than the manifest"
        reasons = table["reason"].to_pylist()
        failed = [before or reason is not None for before, reason in zip(failed, reasons, strict=True)]
        columns.update({name: table[name].to_pylist() for name in inputs if name in table.column_names})
    for name in inputs:
        if name == "image":
            places = zip(manifest["gesture"].to_pylist(), columns["image_id"], strict=True)
            columns["image"] = [_read_bytes(image_path(build, *place)) for place in places]
        elif name not in columns:
            columns[name] = manifest[name].to_pylist()
    return columns, failed


def input_key(stage: type[Stage], options: Any, columns: Columns, failed_earlier: list[bool]) -> str:
    """Return the sha256 of all that decides a shard's content: the stage, its options and its rows."""
    digest = hashlib.sha256()
    head = [stage.name, stage.version, stage.fingerprint(options), failed_earlier]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for name in sorted(columns):
        values = columns[name]
        if name == "image":
            values = [value and hashlib.sha256(value).hexdigest() for value in values]
        digest.update(json.dumps([name, values]).encode())
    return digest.hexdigest()


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def _make(stage: Stage, columns: Columns, failed_earlier: list[bool]) -> pa.Table:
    """Call the stage on the rows that have not failed, put the others back between them."""
    schema = STAGE_COLUMNS[stage.name]
    todo = [index for index, failed in enumerate(failed_earlier) if not failed]
    found = stage({name: [values[index] for index in todo] for name, values in columns.items()}) if todo else {}
    rows = len(failed_earlier)
    table: Columns = {name: [None] * rows for name in schema.names}
    table |= {"image_id": columns["image_id"], "reason": ["failed-earlier"] * rows}
    for name in [*schema.names, "reason"] if todo else []:
        assert len(found[name]) == len(todo), f"{stage.name} returned {len(found[name])} of {len(todo)} {name}"
        for index, value in zip(todo, found[name], strict=True):
            table[name][index] = value
    unknown = set(filter(None, table["reason"])) - set(REASONS)
    assert not unknown, f"{stage.name} gave reasons that record.REASONS does not explain: {unknown}"
    return pa.table(table, schema=pa.schema([("image_id", pa.string()), *schema, ("reason", pa.string())]))


def _finished_reasons(path: Path, key: str, final: frozenset[str]) -> list[str | None] | None:
    """Return the reasons of a finished shard, None if it must be made (anew)."""
    if stored_key(path) != key:
        return None
    reasons: list[str | None] = pq.read_table(path, columns=["reason"])["reason"].to_pylist()
    again = set(filter(None, reasons)) - final - {"failed-earlier"}
    return None if again else reasons


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _run_local(arguments: dict[str, Any], shards: int, workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1 or shards <= 1:
        with closing(ShardWorker(**arguments)) as worker:
            yield from map(worker, range(shards))
        return
    what = arguments["stage"].name
    yield from map_unordered(_work, range(shards), min(workers, shards), what, _start_worker, (arguments,))


_worker: ShardWorker


def _start_worker(arguments: dict[str, Any]) -> None:
    global _worker  # one per process of the pool, so that its model is loaded once
    _worker = ShardWorker(**arguments)


def _work(shard: int) -> dict[str, Any]:
    return _worker(shard)


def _run_ray(arguments: dict[str, Any], shards: int, workers: int) -> Iterator[dict[str, Any]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports usage to its maker unless told not to
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ parts log to the terminal, beside our bar
    try:
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'hand1000[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # from_items and not range: reading a range needs a CPU of its own, and waits for ever if the workers hold them all
    numbers = ray.data.from_items([{"shard": shard} for shard in range(shards)], override_num_blocks=shards)
    pool = ray.data.ActorPoolStrategy(size=min(workers, shards))
    arguments = {**arguments, "build": arguments["build"].absolute()}
    outcomes = numbers.map_batches(_RayShardWorker, batch_size=1, compute=pool, fn_constructor_kwargs=arguments)
    for row in outcomes.iter_rows():
        outcome = json.loads(row["outcome"])
        for error in (UserError, Unfinished):
            if error.__name__ in outcome:
                raise error(outcome[error.__name__])
        yield outcome


class _RayShardWorker(ShardWorker):
    """Ray Data's batches are dicts of arrays: one array with the number of a shard in, one with its outcome out."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        try:
            outcome = super().__call__(int(batch["shard"][0]))
        except (UserError, Unfinished) as error:  # travels as data: Ray would wrap it in a page of its own
            outcome = {type(error).__name__: str(error)}
        return {"outcome": [json.dumps(outcome)]}


ENGINES = {"local": _run_local, "ray": _run_ray}
