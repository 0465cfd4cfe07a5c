"""Engines that run a stage over all shards of a build: a plain loop, several processes, or a Ray cluster.

Stages do not know which engine runs them, and no other module imports Ray.
"""

import json
import logging
import multiprocessing
import os
import secrets
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from handdata.builds.guardian import guarded
from handdata.errors import Unfinished, UserError
from handdata.files import remove_partial, write_text
from handdata.machine import gpus, limited_cores, map_unordered, same_signal_handlers, take_share, watch_parent
from handdata.progress import bar
from handdata.recipe import StageResources
from handdata.rows.manifest import read_manifest
from handdata.rows.shards import SHARD_ROWS, shard_count, shard_path
from handdata.stages import Execution, StageReport, StageSpec
from handdata.store.store import Store
from handdata.workers.resources import Share, cluster_share, gpus_of_worker, local_share
from handdata.workers.shard_worker import Outcome, ShardWorker
from handdata.workers.software import differences

_DEFAULT = StageResources()


def run(
    stage: StageSpec, options: Any, build: Path, execution: Execution, resources: StageResources = _DEFAULT
) -> StageReport:
    """Bring the shards of one stage up to date; return the outcome of its rows.

    A finished shard is kept if its inputs are the same and none of its rows failed for a reason that may pass. The rows
    do not depend on the engine or the number of workers. Exceptions of the stage are raised here.
    """
    rows = read_manifest(build, columns=["image_id"]).num_rows
    shards, folder = range(shard_count(rows)), build / stage.columns
    if execution.part is None:
        remove_partial(folder)
    else:  # other parts may be writing theirs
        shards = execution.part.shards(len(shards))
        for shard in shards:
            remove_partial(folder, shard_path(build, stage.columns, shard).name)
    if not shards:  # of a part of more parts than shards
        return StageReport()
    worker = ShardWorker(stage, options, build.absolute(), resources, execution.store)
    workers = min(resources.workers or execution.workers, len(shards))
    report, made_by = StageReport(), Counter[str]()
    with (
        bar(
            total=min(rows, len(shards) * SHARD_ROWS), desc=stage.columns, unit="row", show=execution.progress
        ) as shown,
        ENGINES[execution.engine](worker, shards, workers, execution.address) as outcomes,
    ):
        for outcome in outcomes:
            report.rows += outcome["rows"]
            report.made_shards += outcome["made"]
            report.kept_shards += not outcome["made"]
            report.failed.update(outcome["failed"])
            made_by[differences(outcome["software"], worker.software)] += bool(outcome["software"])
            shown.update(outcome["rows"])
    for other, count in made_by.items():
        if other and count and execution.progress:
            print(f"{stage.columns}: {count:,} finished shards are kept, made with {other}", file=sys.stderr)
    return report


def has_gpu(execution: Execution) -> bool | None:
    """Return whether the cluster has a GPU; None for the local engine, where each library knows it."""
    if execution.engine == "local":
        return None
    resources = _connect(execution.address).cluster_resources()
    return bool(resources.get("GPU", 0) > 0)


# An engine is a context: outcomes are read inside the block, models are released when it ends.


@contextmanager
def _local(worker: ShardWorker, shards: range, workers: int, address: str) -> Iterator[Iterator[Outcome]]:
    if workers <= 1:
        with closing(worker), limited_cores(worker.resources.cpus):
            yield map(worker, shards)
    else:
        demand = worker.demand()
        devices = gpus() if demand.gpu else []
        share = local_share(demand, worker.resources, workers, devices)
        started = multiprocessing.get_context("spawn").Value("i", 0)  # number of workers so far
        first = (worker, share, devices, started)
        with closing(map_unordered(_work, shards, workers, worker.stage.name, _start_worker, first)) as outcomes:
            yield _placed(outcomes, worker)


_MARK = ".working-{}-{}.partial"  # a file of each worker process with the number of its shard; its parent and itself
_worker: ShardWorker


def _start_worker(worker: ShardWorker, share: Share, devices: list[str], started: Any) -> None:
    global _worker  # one per process of the pool, so that its model is loaded once
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    take_share(share.cpus, gpus_of_worker(share, number, devices) if devices else None)
    _worker = worker


def _work(shard: int) -> Outcome:
    mark = _worker.build / _worker.stage.columns / _MARK.format(os.getppid(), os.getpid())
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
        marks = sorted(
            (worker.build / worker.stage.columns).glob(_MARK.format(os.getpid(), "*"))
        )  # left by dead processes only
        texts = [mark.read_text(encoding="utf-8") for mark in marks]
        images = [read_manifest(worker.build, int(text), ["image_id"])["image_id"] for text in texts if text]
        places = [f"{ids[0]} to {ids[-1]}" for ids in images]
        if not places:
            raise
        raise Unfinished(f"{error}; in work were the images {' and '.join(places)}") from None


@contextmanager
def _ray(worker: ShardWorker, shards: range, workers: int, address: str) -> Iterator[Iterator[Outcome]]:
    ray = _connect(address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # from_items and not range: reading a range needs a CPU of its own, and waits forever if the workers hold them all
    numbers = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = cluster_share(worker.demand(), worker.resources, workers, nodes)
    with _probe(worker.store) as probe:
        outcomes = numbers.map_batches(
            _RayWorker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_kwargs={"worker": worker, "cpus": share.cpus, "probe": probe},
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            memory=share.memory or None,
        )
        yield map(_unpacked, outcomes.iter_rows())


def _connect(address: str) -> Any:
    """Return Ray's module, connected to the cluster of an address, of RAY_ADDRESS, or a new one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage statistics to its maker by default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ parts log to the terminal, into our bar
    if not (address or os.environ.get("RAY_ADDRESS")):  # a cluster of our own
        # Ray's agents outlive a killed cluster until they give up their server: 60 s by default
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    try:
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'hand1000[ray]'") from None
    if not ray.is_initialized():
        # local: a cluster of our own, also where Ray's files name another one that was killed
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            with same_signal_handlers(), guarded():
                ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:
            if not isinstance(error, ConnectionError | ValueError) and type(error) is not Exception:
                raise  # Ray raises a plain Exception if its start takes longer than 30 s, as on an overloaded machine
            place = address if address != "local" else "of this machine"
            raise Unfinished(
                f"the Ray cluster {place} cannot be used ({error}): check --address, RAY_ADDRESS and ray status"
            ) from None
    return ray


class _RayWorker:
    """Adapter of a worker to Ray Data, whose batches are dicts of arrays: a shard's number in, its outcome out."""

    def __init__(self, worker: ShardWorker, cpus: int, probe: tuple[str, str]) -> None:
        self._worker, self._refused = worker, _refused(worker.store, *probe)
        take_share(cpus)
        watch_parent()  # Ray's own check waits until the worker is idle

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._refused is not None:
                raise self._refused
            shard = int(batch["shard"][0])
            with self._worker.elsewhere(shard):
                outcome = self._worker(shard)
        except (UserError, Unfinished) as error:  # sent as data: Ray would wrap it in a long traceback
            outcome = {type(error).__name__: str(error)}
        return {"outcome": [json.dumps(outcome)]}


@contextmanager
def _probe(store: Store) -> Iterator[tuple[str, str]]:
    """Yield the name of a file in the store, and its content, by which a worker knows that it has the same store."""
    path, content = store.folder / f".probe-{os.getpid()}.partial", secrets.token_hex(16)
    write_text(path, content)
    store.put(path)
    try:
        yield path.name, content
    finally:
        store.remove(path)


def _refused(store: Store, name: str, content: str) -> Exception | None:
    """Return the error of a worker that cannot read the store, None if it can."""
    host = socket.gethostname()
    try:
        with store.elsewhere() as here:
            path = here.folder / name
            here.bring(path)
            if path.read_text(encoding="utf-8") == content:
                return None
    except (UserError, Unfinished) as error:
        return type(error)(f"the Ray worker on {host}: {error}")
    except (OSError, UnicodeDecodeError):
        pass
    return UserError(
        f"the Ray worker on {host} cannot read {store.place}: put the build in a folder that all machines of the"
        " cluster mount under the same path, or under a URL (--out s3://BUCKET/NAME), or build it in parts (--part)"
    )


def _unpacked(row: dict[str, Any]) -> Outcome:
    outcome: Outcome = json.loads(row["outcome"])
    for error in (UserError, Unfinished):
        if error.__name__ in outcome:
            raise error(outcome[error.__name__])
    return outcome


ENGINES = {"local": _local, "ray": _ray}
