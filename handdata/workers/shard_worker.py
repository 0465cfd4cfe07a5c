"""One shard of a stage: its inputs, the key that decides whether it is finished, its table."""

import hashlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import Unfinished, UserError
from handdata.gestures import also, own_gestures
from handdata.recipe import StageResources
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import REASONS, STAGE_COLUMNS, shard_schema
from handdata.rows.shards import FINGERPRINT, KEY, SOFTWARE, image_path, read_shard, shard_path, write_table
from handdata.stages import STAGES, Columns, Stage, StageSpec, needs
from handdata.store.folder import Folder
from handdata.store.store import Store
from handdata.workers.resources import Demand
from handdata.workers.software import require_software, software_of

# of a shard: `rows`, `made` (bool), `failed` (number of rows by reason), `software` (versions that made it)
Outcome = dict[str, Any]
_DEFAULT = StageResources()


class ShardWorker:
    """Bring one shard of a stage up to date: the callable that every engine calls with the number of each shard."""

    def __init__(
        self,
        stage: StageSpec,
        options: Any,
        build: Path,
        resources: StageResources = _DEFAULT,
        store: Store | None = None,
    ) -> None:
        self.stage, self.options, self.build, self.resources = stage, options, build, resources
        self.store = store or Folder(build)
        self._own = own_gestures()  # of the recipe; they reach other processes with this worker
        self.software = software_of(stage, options)  # of the driver: every worker must have the same
        self._model: Stage | None = None  # loaded for the first shard that needs it

    def demand(self) -> Demand:
        """Return the resources that the stage can use."""
        work = self.stage.load()
        on_gpu = getattr(work, "on_gpu", lambda options: False)
        return Demand(self.stage.name, getattr(work, "threads", False), on_gpu(self.options))

    def __call__(self, shard: int) -> Outcome:
        """Make the shard unless it is finished; return its outcome."""
        with also(self._own):
            work: type[Stage] = self.stage.load()
            columns, failed_earlier = read_inputs(self.build, work.inputs, shard, self.stage, self.store)
            key = input_key(self.stage, self.options, columns, failed_earlier)
            finished = read_shard(self.build, self.stage.columns, shard, columns["image_id"])
            made = not _is_finished(finished, key, work.final_reasons)
            if made:
                self._model = self._model or self._load()
                todo = [index for index, failed in enumerate(failed_earlier) if not failed]
                results: Columns = {}
                if todo:
                    results = self._model({name: [values[index] for index in todo] for name, values in columns.items()})
                table = _shard_table(self.stage, columns["image_id"], todo, results)
                fingerprint = json.dumps(work.fingerprint(self.options), ensure_ascii=False)
                path = shard_path(self.build, self.stage.columns, shard)
                metadata = {KEY: key, FINGERPRINT: fingerprint, SOFTWARE: json.dumps(self.software)}
                finished = table.replace_schema_metadata(metadata)
                write_table(finished, path)
                self.store.put(path)
            return _outcome(finished, made)

    @contextmanager
    def elsewhere(self, shard: int) -> Iterator[None]:
        """Let a call inside the block make this shard on a machine that may have nothing of the build."""
        here = self.build, self.store
        with self.store.elsewhere() as store:
            self.build, self.store = store.folder, store
            columns = (stage.columns for stage in STAGES if stage.columns)
            try:
                store.bring(self.build / "manifest.parquet", *(shard_path(self.build, name, shard) for name in columns))
                yield
            finally:
                self.build, self.store = here

    def inspect(self, shard: int) -> tuple[Outcome | None, str]:
        """Return the outcome of a shard that is made from the present inputs, else None and the reason.

        Rows that failed for a reason that may pass count as finished here.
        """
        work: type[Stage] = self.stage.load()
        columns, failed_earlier = read_inputs(self.build, work.inputs, shard, self.stage, self.store)
        table = read_shard(self.build, self.stage.columns, shard, columns["image_id"])
        if table is None:
            return None, "missing"
        with also(self._own):
            key = input_key(self.stage, self.options, columns, failed_earlier)
            wanted = work.fingerprint(self.options)
        metadata = table.schema.metadata or {}
        if metadata.get(KEY) == key.encode():
            return _outcome(table, made=False), ""
        stored = json.loads(metadata.get(FINGERPRINT, "null"))
        if isinstance(stored, dict) and isinstance(wanted, dict):
            names = [name for name in wanted if stored.get(name) != wanted[name]]
            other = [f"{name} {_brief(stored.get(name))} instead of {_brief(wanted[name])}" for name in names]
            if other:
                return None, f"made with {', '.join(other)}"
        return None, "made from other inputs"

    def _load(self) -> Stage:
        """Load the stage's model. Raises `UserError` on a machine that would compute other rows than the build's."""
        work, host = self.stage.load(), socket.gethostname()
        require_software(self.software, f"the worker on {host}", "the process that started it")
        if self.demand().gpu and not work.gpu_found():
            raise UserError(
                f"this build computes '{self.stage.name}' on a GPU, and {host} has none that can be used: run it on"
                f" machines with a GPU, or set --{self.stage.table}.device cpu, which makes all of its shards again"
            )
        loaded: Stage = work(self.options)
        return loaded

    def close(self) -> None:
        """Release the model, if the stage has a method `close`."""
        release = getattr(self._model, "close", None)
        if release is not None:
            release()
        self._model = None


def inspect_fetched(build: Path, shard: int, image_ids: list[str]) -> tuple[Outcome | None, str]:
    """Return the outcome of a shard of the stage `fetch`, else None and the reason, like `ShardWorker.inspect`."""
    table = read_shard(build, "fetch", shard, image_ids)
    return (None, "missing") if table is None else (_outcome(table, made=False), "")


def _outcome(table: pa.Table | None, made: bool) -> Outcome:
    assert table is not None
    reasons = table["reason"].to_pylist()
    software = json.loads((table.schema.metadata or {}).get(SOFTWARE, "{}"))
    return {"rows": len(reasons), "made": made, "failed": Counter(filter(None, reasons)), "software": software}


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_inputs(
    build: Path, inputs: tuple[str, ...], shard: int, stage: StageSpec, store: Store | None = None
) -> tuple[Columns, list[bool]]:
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
            paths = [image_path(build, *pair) for pair in pairs]
            columns["image"] = _read_images(paths, fetched or [None] * len(paths), store or Folder(build))
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


def _is_finished(table: pa.Table | None, key: str, final: frozenset[str]) -> bool:
    """Return whether a shard is made from the same inputs, and none of its rows may be better in another try."""
    if table is None or (table.schema.metadata or {}).get(KEY) != key.encode():
        return False
    return not set(filter(None, table["reason"].to_pylist())) - final - {"failed-earlier"}


def _read_images(paths: list[Path], fetched: list[str | None], store: Store) -> list[bytes | None]:
    """Return the images after comparing them with the hashes of the stage `fetch`; others are brought from the store.

    A build whose images came otherwise has no hashes.
    """
    images = [_read_bytes(path) for path in paths]
    changed = [index for index, sha256 in enumerate(fetched) if sha256 and _sha256(images[index]) != sha256]
    store.bring(*(paths[index] for index in changed))
    for index in changed:
        images[index] = _read_bytes(paths[index])
        if _sha256(images[index]) != fetched[index]:
            raise Unfinished(f"{paths[index]} is not the image that was fetched: run `handdata fetch {store.folder}`")
    return images


def _sha256(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
