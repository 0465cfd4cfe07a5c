"""Engines that run a stage over all shards of a build: a plain loop, several processes, or a Ray cluster.

Stages do not know which engine runs them, and no other module imports Ray.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import Unfinished, UserError
from handdata.files import remove_partial
from handdata.gestures import also, own_gestures
from handdata.machine import map_unordered, same_signal_handlers, watch_parent
from handdata.progress import bar
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import REASONS, STAGE_COLUMNS, shard_schema
from handdata.rows.shards import FINGERPRINT, KEY, image_path, read_shard, shard_count, shard_path, write_table
from handdata.stages import STAGES, Columns, Execution, Stage, StageReport, StageSpec, needs

Outcome = dict[str, Any]  # of a shard: `rows`, `made` (bool), `failed` (number of rows by reason)


def run(stage: StageSpec, options: Any, build: Path, execution: Execution) -> StageReport:
    """Bring the shards of one stage up to date; return the outcome of its rows.

    A finished shard is kept if its inputs are the same and none of its rows failed for a reason that may pass. The rows
    do not depend on the engine or the number of workers. Exceptions of the stage are raised here.
    """
    rows = read_manifest(build, columns=["image_id"]).num_rows
    remove_partial(build / stage.columns)
    worker, shards = ShardWorker(stage, options, build.absolute()), shard_count(rows)
    workers = min(execution.workers, shards)
    report = StageReport()
    with (
        bar(total=rows, desc=stage.columns, unit="row", show=execution.progress) as shown,
        ENGINES[execution.engine](worker, shards, workers) as outcomes,
    ):
        for outcome in outcomes:
            report.rows += outcome["rows"]
            report.made_shards += outcome["made"]
            report.kept_shards += not outcome["made"]
            report.failed.update(outcome["failed"])
            shown.update(outcome["rows"])
    return report


class ShardWorker:
    """Bring one shard of a stage up to date: the callable that every engine calls with the number of each shard."""

    def __init__(self, stage: StageSpec, options: Any, build: Path) -> None:
        self.stage, self.options, self.build = stage, options, build
        self._own = own_gestures()  # of the recipe; they reach other processes with this worker
        self._model: Stage | None = None  # loaded for the first shard that needs it

    def __call__(self, shard: int) -> Outcome:
        """Make the shard unless it is finished; return its outcome."""
        with also(self._own):
            return self._outcome(shard)

    def _outcome(self, shard: int) -> Outcome:
        work: type[Stage] = self.stage.load()
        columns, failed_earlier = read_inputs(self.build, work.inputs, shard, self.stage)
        key = input_key(self.stage, self.options, columns, failed_earlier)
        finished = read_shard(self.build, self.stage.columns, shard, columns["image_id"])
        reasons = _finished_reasons(finished, key, work.final_reasons)
        made = reasons is None
        if reasons is None:
            self._model = self._model or work(self.options)
            todo = [index for index, failed in enumerate(failed_earlier) if not failed]
            results: Columns = {}
            if todo:
                results = self._model({name: [values[index] for index in todo] for name, values in columns.items()})
            table = _shard_table(self.stage, columns["image_id"], todo, results)
            fingerprint = json.dumps(work.fingerprint(self.options), ensure_ascii=False)
            path = shard_path(self.build, self.stage.columns, shard)
            write_table(table.replace_schema_metadata({KEY: key, FINGERPRINT: fingerprint}), path)
            reasons = table["reason"].to_pylist()
        return {"rows": len(reasons), "made": made, "failed": Counter(filter(None, reasons))}

    def close(self) -> None:
        """Release the model, if the stage has a method `close`."""
        release = getattr(self._model, "close", None)
        if release is not None:
            release()
        self._model = None


def read_inputs(build: Path, inputs: tuple[str, ...], shard: int, stage: StageSpec) -> tuple[Columns, list[bool]]:
    """Return the columns of a shard's rows, and whether each row failed in an earlier stage.

    Columns come from the manifest and the stages that fill them. `image_id` is always among them; `image` is the bytes
    of the stored file, None if it is missing. Raises `UserError` if a stage that fills an input has not been run,
    `Unfinished` if an image is not the one that was fetched.
    """
    manifest = read_manifest(build, shard)
    columns: Columns = {"image_id": manifest["image_id"].to_pylist()}
    suppliers = {name for name, schema in STAGE_COLUMNS.items() if set(schema.names) & set(inputs)}
    if "image" in inputs and (build / "fetch").is_dir():
        suppliers.add("fetch")
    failed, fetched = [False] * manifest.num_rows, None
    for supplier in (other for other in STAGES if other.columns in suppliers):
        table = read_shard(build, supplier.columns, shard, columns["image_id"])
        if table is None:
            raise needs(build, stage, supplier, shard)
        reasons = table["reason"].to_pylist()
        failed = [before or reason is not None for before, reason in zip(failed, reasons, strict=True)]
        fetched = table["sha256"].to_pylist() if supplier.columns == "fetch" else fetched
        columns.update({name: table[name].to_pylist() for name in inputs if name in table.column_names})
    for name in inputs:
        if name == "image":
            pairs = zip(manifest["gesture"].to_pylist(), columns["image_id"], strict=True)
            columns["image"] = [_read_bytes(image_path(build, *pair)) for pair in pairs]
            _require_fetched(build, manifest, columns["image"], fetched)
        elif name not in columns:
            columns[name] = manifest[name].to_pylist()
    return columns, failed


def input_key(stage: StageSpec, options: Any, columns: Columns, failed_earlier: list[bool]) -> str:
    """Return the sha256 of all that decides a shard's content: the stage, its options and its rows."""
    work: type[Stage] = stage.load()
    digest = hashlib.sha256()
    head = [stage.columns, work.version, work.fingerprint(options), failed_earlier]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for name in sorted(columns):
        values = columns[name]
        if name == "image":
            values = [value and hashlib.sha256(value).hexdigest() for value in values]
        digest.update(json.dumps([name, values]).encode())
    return digest.hexdigest()


def _shard_table(stage: StageSpec, image_ids: list[str], todo: list[int], results: Columns) -> pa.Table:
    """Return the shard's rows: `results` at the indices `todo`, and the rows that failed earlier at the others."""
    schema, rows = STAGE_COLUMNS[stage.columns], len(image_ids)
    table: Columns = {name: [None] * rows for name in schema.names}
    table |= {"image_id": image_ids, "reason": ["failed-earlier"] * rows}
    for name in [*schema.names, "reason"] if todo else []:
        assert len(results[name]) == len(todo), f"{stage.name} returned {len(results[name])} of {len(todo)} {name}"
        for index, value in zip(todo, results[name], strict=True):
            table[name][index] = value
    unknown = set(filter(None, table["reason"])) - set(REASONS)
    assert not unknown, f"{stage.name} returned reasons that schema.REASONS does not explain: {unknown}"
    return pa.table(table, schema=shard_schema(stage.columns))


def _finished_reasons(table: pa.Table | None, key: str, final: frozenset[str]) -> list[str | None] | None:
    """Return the reasons of a finished shard, None if it has to be made."""
    if table is None or (table.schema.metadata or {}).get(KEY) != key.encode():
        return None
    reasons: list[str | None] = table["reason"].to_pylist()
    transient = set(filter(None, reasons)) - final - {"failed-earlier"}
    return None if transient else reasons


def _require_fetched(build: Path, manifest: pa.Table, images: list[bytes | None], fetched: list[str] | None) -> None:
    """Compare images with the hashes of the stage `fetch`, which has none in a build whose images came otherwise."""
    for index, sha256 in enumerate(fetched or ()):
        if sha256 and hashlib.sha256(images[index] or b"").hexdigest() != sha256:
            path = image_path(build, manifest["gesture"][index].as_py(), manifest["image_id"][index].as_py())
            raise Unfinished(f"{path} is not the image that was fetched: run `handdata fetch {build}`")


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


# An engine is a context: outcomes are read inside the block, models are released when it ends.


@contextmanager
def _local(worker: ShardWorker, shards: int, workers: int) -> Iterator[Iterator[Outcome]]:
    if workers <= 1:
        with closing(worker):
            yield map(worker, range(shards))
    else:
        outcomes = map_unordered(_work, range(shards), workers, worker.stage.name, _start_worker, (worker,))
        with closing(outcomes):
            yield _placed(outcomes, worker)


_MARK = ".working-{}.partial"  # a file of each worker process with the number of its shard
_worker: ShardWorker


def _start_worker(worker: ShardWorker) -> None:
    global _worker  # one per process of the pool, so that its model is loaded once
    _worker = worker


def _work(shard: int) -> Outcome:
    mark = _worker.build / _worker.stage.columns / _MARK.format(os.getpid())
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(str(shard), encoding="utf-8")
    try:
        return _worker(shard)
    finally:
        mark.unlink(missing_ok=True)


def _placed(outcomes: Iterator[Outcome], worker: ShardWorker) -> Iterator[Outcome]:
    """Yield the outcomes; add to the error of a worker that died which images the workers were at."""
    try:
        yield from outcomes
    except Unfinished as error:
        marks = sorted((worker.build / worker.stage.columns).glob(_MARK.format("*")))  # left by dead processes only
        texts = [mark.read_text(encoding="utf-8") for mark in marks]
        images = [read_manifest(worker.build, int(text), ["image_id"])["image_id"] for text in texts if text]
        places = [f"{ids[0]} to {ids[-1]}" for ids in images]
        if not places:
            raise
        raise Unfinished(f"{error}; in work were the images {' and '.join(places)}") from None


@contextmanager
def _ray(worker: ShardWorker, shards: int, workers: int) -> Iterator[Iterator[Outcome]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage statistics to its maker by default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ parts log to the terminal, into our bar
    # Ray's agents outlive a killed cluster until they give up their server: 60 s by default
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    try:
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'hand1000[ray]'") from None
    if not ray.is_initialized():
        try:
            with same_signal_handlers():
                ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            place = os.environ.get("RAY_ADDRESS", "of this machine")
            raise Unfinished(
                f"the Ray cluster {place} cannot be used ({error}): check RAY_ADDRESS and ray status"
            ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # from_items and not range: reading a range needs a CPU of its own, and waits forever if the workers hold them all
    numbers = ray.data.from_items([{"shard": shard} for shard in range(shards)], override_num_blocks=shards)
    pool = ray.data.ActorPoolStrategy(size=workers)
    arguments = {"worker": worker}
    outcomes = numbers.map_batches(_RayWorker, batch_size=1, compute=pool, fn_constructor_kwargs=arguments)
    yield map(_unpacked, outcomes.iter_rows())


class _RayWorker:
    """Adapter of a worker to Ray Data, whose batches are dicts of arrays: a shard's number in, its outcome out."""

    def __init__(self, worker: ShardWorker) -> None:
        self._worker = worker
        watch_parent()  # Ray's own check waits until the worker is idle

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            outcome = self._worker(int(batch["shard"][0]))
        except (UserError, Unfinished) as error:  # sent as data: Ray would wrap it in a long traceback
            outcome = {type(error).__name__: str(error)}
        return {"outcome": [json.dumps(outcome)]}


def _unpacked(row: dict[str, Any]) -> Outcome:
    outcome: Outcome = json.loads(row["outcome"])
    for error in (UserError, Unfinished):
        if error.__name__ in outcome:
            raise error(outcome[error.__name__])
    return outcome


ENGINES = {"local": _local, "ray": _ray}
