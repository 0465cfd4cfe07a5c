"""The class `Build`: run the stages of a build in order, then review, drop and publish its rows.

`run` is the way into the code: it takes the stages from the table in `handdata/stages`. A stage that works on shards is
run by `builds/engine`; the others are called here.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from handdata.builds import engine as engines
from handdata.builds import verify as verification
from handdata.builds.drop import Dropped, drop
from handdata.builds.folder import BuildFolder
from handdata.builds.payload import Published
from handdata.builds.publish import publish
from handdata.builds.review import Applied, apply_decisions, write_page
from handdata.builds.status import status
from handdata.errors import Unfinished, UserError
from handdata.files import remove, remove_partial
from handdata.gestures import also
from handdata.huggingface import model_folder
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.parts import parts_of
from handdata.rows.shards import SHARD_ROWS, shard_count, shard_path
from handdata.sources.journal import join_journals, read_receipts
from handdata.stages import (
    STAGES,
    Execution,
    StageReport,
    StageSpec,
    assemble,
    fetch,
    stage_named,
    stages_for,
    stages_until,
)
from handdata.store.store import everything
from handdata.workers import rates
from handdata.workers.shard_worker import ShardWorker, inspect_fetched
from handdata.workers.software import require_installed, require_software, software_of

_LOCAL = Execution()
_CHOICE = STAGES[0].name


class Build(BuildFolder):
    """A build folder and all operations on it: `Build.start(...)` or `Build.open(...)`, `run()`, `publish(...)`."""

    def run(
        self,
        until: str | None = None,
        engine: str = "local",
        workers: int = 1,
        progress: bool = True,
        only: str | None = None,
        verify: bool = False,
        address: str = "",
    ) -> dict[str, StageReport]:
        """Run all stages in order, those up to `until`, or the stage `only`; return their reports by name.

        Shards that were finished from the same inputs are kept, so the same call resumes a build that was stopped. A
        part makes its own shards only, and leaves the last stage to `join`. `engine` is local or ray, `address` that of
        a running Ray cluster, and `workers` the number of processes per stage; the rows do not depend on them. With
        `verify` every file that the build relies on is read first, and damaged ones are listed on stderr. Raises
        `UserError` for a mistake, `Unfinished` if a stage cannot continue.
        """
        if engine not in engines.ENGINES:
            raise UserError(f"unknown engine '{engine}': use {' or '.join(engines.ENGINES)}")
        execution, reports = Execution(engine, workers, progress, address, self.part, self.store), {}
        stages = stages_for(self.recipe, stages_until(until) if only is None else (stage_named(only),))
        seconds: dict[str, float] = {}
        with self.lock(), also(self.recipe.gesture):
            self.store.bring_all(everything if verify else self.own_rows)
            if verify:
                print(verification.report(verification.verify(self)), file=sys.stderr)
            started = time.monotonic()  # the time of the first stage includes the look-ups
            self._begin(stages)
            for stage in stages:
                whole = self.part is None or stage.name == _CHOICE  # one part chooses the images, while others wait
                if whole or stage.columns:
                    with self.store.exclusive("select") if whole and self.part else nullcontext():
                        self._bring_before(stage)
                        run = self._prepared(stage, execution, verify)
                        report = reports[stage.name] = run()
                        if whole:
                            self.store.put(self.path / "manifest.parquet")
                            self._record_outcome(stage, report.rows, report.failed, report.notes)
                seconds[stage.name] = time.monotonic() - started
                started += seconds[stage.name]
        if self.part is None:
            rates.record(self.recipe, reports, seconds, workers)
        return reports

    def join(self, progress: bool = True) -> StageReport:
        """Check that the parts of a build have finished every shard, and assemble the dataset; return its report.

        Nothing else is computed. Raises `Unfinished` naming the parts to run again.
        """
        stages = stages_for(self.recipe)
        with self.lock(), also(self.recipe.gesture):
            self.store.bring_all(self.own_rows)
            for name in (".select.lock", *(path.name for path in self.path.glob(".part-*.lock"))):
                remove(self.path / name)
            for folder in (*self.path.glob("images/*"), *(self.path / stage.columns for stage in stages)):
                remove_partial(folder)
            join_journals(self.path, self.store)
            ids = read_manifest(self.path, columns=["image_id"])["image_id"].to_pylist()
            self.update_record({}, converted=fetch.converted(read_receipts(self.path)[0], ids))
            for stage in stages:
                if stage.columns:
                    outcomes = self._inspect(stage)
                    failed = sum((outcome["failed"] for outcome in outcomes), Counter[str]())
                    self._record_outcome(stage, sum(outcome["rows"] for outcome in outcomes), failed)
            report: StageReport = assemble.run(self.path, self.recipe, Execution(progress=progress))
            self._record_outcome(stages[-1], report.rows, report.failed)
        return report

    def _bring_before(self, stage: StageSpec) -> None:
        """Bring the files that other processes may have made while this one worked, and that a stage reads."""
        if stage.name == _CHOICE and self.part:
            self.store.bring(self.path / "manifest.parquet")
        elif not stage.columns and stage.name != _CHOICE:  # it reads all shards, which other machines may have made
            self.store.bring_all(everything)

    def _prepared(self, stage: StageSpec, execution: Execution, verify: bool) -> Callable[[], StageReport]:
        """Return the function that runs a stage, after a look at its model and the versions of the other parts."""
        implementation = stage.load()
        if not isinstance(implementation, type):  # a function, which works on the whole build
            return partial(implementation, self.path, self.recipe, execution)
        options = self._options(stage, implementation, execution)
        if verify and stage.name == "caption" and hasattr(implementation, "at_commit") and not options.server:
            model, _ = model_folder(options.model, options.revision)
            verification.verify_model(model, f"--{stage.table}.model")
        self._agree_on_software(stage, options)
        resources = getattr(self.recipe.resources, stage.name)
        return partial(engines.run, stage, options, self.path, execution, resources)

    def _record_outcome(
        self, stage: StageSpec, rows: int, failed: Counter[str], notes: dict[str, Any] | None = None
    ) -> None:
        self.update_record({stage.name: {"rows": rows, "failed": dict(sorted(failed.items()))}}, **(notes or {}))

    def _forget_software(self, stages: tuple[StageSpec, ...]) -> None:
        """Let the run of these stages name its versions again."""
        known = self.record().get("software", {})
        kept = {name: entry for name, entry in known.items() if name not in {stage.name for stage in stages}}
        if kept != known:
            self.update_record({}, software=kept)

    def _agree_on_software(self, stage: StageSpec, options: Any) -> None:
        """Compare the versions that decide a stage's rows with those of the other parts, of which the first names them.

        A run of the whole build names them again. Raises `UserError` for a part with other versions.
        """
        named = self.settle("software", stage.name, {}, {"versions": software_of(stage, options)})["versions"]
        require_software(named, f"part {self.part}", f"the parts of {self.path} that began earlier")

    def _inspect(self, stage: StageSpec) -> list[dict[str, Any]]:
        """Return the outcomes of a stage's shards. Raises `Unfinished` naming the parts of those that are missing."""
        ids = read_manifest(self.path, columns=["image_id"])["image_id"].to_pylist()
        implementation, shards = stage.load(), range(shard_count(len(ids)))
        if isinstance(implementation, type):
            worker = ShardWorker(stage, self._options(stage, implementation), self.path, store=self.store)
            inspected = [worker.inspect(shard) for shard in shards]
        else:
            inspected = [inspect_fetched(self.path, shard, ids[shard * SHARD_ROWS :][:SHARD_ROWS]) for shard in shards]
        missing = {shard: reason for shard, (outcome, reason) in enumerate(inspected) if outcome is None}
        if missing:
            parts = parts_of(missing, self.record().get("parts", 1))
            remedy = ", ".join(f"--part {part}" for part in parts) if parts[0].of > 1 else "no --part"
            raise Unfinished(
                f"{len(missing):,} of {len(shards):,} shards of '{stage.name}' are not finished (the first of them is"
                f" {next(iter(missing.values()))}): run `handdata build` again with {remedy}, then with --join"
            )
        return [outcome for outcome, _ in inspected if outcome is not None]

    def status(self) -> dict[str, Any]:
        """Return the state of the build as plain data: rows done, failed and left by stage, decisions, dataset."""
        return status(self)

    def review(self) -> Path:
        """Write the review page, on which a person accepts, rejects and corrects rows; return its path."""
        self.store.bring_all(everything)
        return write_page(self.path)

    def apply_review(self, exported: str | Path) -> Applied:
        """Add the decisions of a file that the review page exported; all later runs follow them."""
        files = [self.path / name for name in decisions.FILES]
        with self.store.exclusive("review"):
            self.store.bring_all(self.own_rows)
            applied = apply_decisions(self.path, Path(exported))
            self.store.put(*files)
        return applied

    def drop(
        self, image_id: str | None = None, subject: str | None = None, note: str | None = None, progress: bool = True
    ) -> Dropped:
        """Remove an image, or all images of a person, from the build and the dataset; `note` is the reason."""
        return drop(self, image_id, subject, note, progress)

    def publish(
        self, to: str | Path, private: bool = False, revision: str | None = None, purge_history: bool = False
    ) -> Published:
        """Publish the dataset to `hf:USER/NAME` or a folder, and read it back; the result's `place` is its address."""
        return publish(self, to, private, revision, purge_history)

    def _begin(self, stages: tuple[StageSpec, ...]) -> None:
        """Write the recipe, which another process may have changed since, and look up the models of these stages."""
        self.write_recipe()
        self._require_models(stages)
        if self.part is None:
            self._forget_software(stages)
        else:
            self.update_record({}, parts=self.part.of)

    def _require_models(self, stages: tuple[StageSpec, ...]) -> None:
        """Look up packages, models, gates and files of all stages; raise `UserError` before the first stage runs."""
        for stage in stages:
            implementation = stage.load()
            if isinstance(implementation, type):
                options = self._pinned(stage, implementation)
                if self._has_shards(stage):
                    continue
                require_installed(stage, options)
                if hasattr(implementation, "require"):
                    implementation.require(options)

    def _has_shards(self, stage: StageSpec) -> bool:
        """Return whether every shard of a stage in this part exists: no model file is needed then."""
        if not (self.path / "manifest.parquet").exists():
            return False
        shards = range(shard_count(read_manifest(self.path, columns=["image_id"]).num_rows))
        shards = shards if self.part is None else self.part.shards(len(shards))
        return all(shard_path(self.path, stage.columns, shard).exists() for shard in shards)

    def _options(self, stage: StageSpec, implementation: Any, execution: Execution = _LOCAL) -> Any:
        """Return a stage's options, with a branch replaced by a commit, and an automatic device by a kind of device.

        The branch may move between two runs, and machines differ, but all rows of a build come from one model, and are
        computed on one kind of device. `run.json` keeps the first answers.
        """
        return self._on_device(stage, implementation, self._pinned(stage, implementation), execution)

    def _pinned(self, stage: StageSpec, implementation: Any) -> Any:
        """Return a stage's options with a model's branch replaced by its commit, and its file's sha256 if it is one."""
        options: Any = getattr(self.recipe, stage.table) if stage.table else None
        if not hasattr(implementation, "at_commit"):
            return options
        requested = {"model": options.model, "revision": options.revision}
        entry = self.record().get("pins", {}).get(stage.name, {})
        if entry.get("asked") != requested:
            pinned = implementation.at_commit(options)
            if pinned == options:
                return options
            answer = {"commit": pinned.revision}
            answer |= {"sha256": pinned.sha256} if getattr(pinned, "sha256", "") else {}
            entry = self.settle("pins", stage.name, requested, answer)
        known = {"sha256": options.sha256 or entry["sha256"]} if entry.get("sha256") else {}  # of a file on the Hub
        return replace(options, revision=entry["commit"], **known)

    def _on_device(self, stage: StageSpec, implementation: Any, options: Any, execution: Execution) -> Any:
        names = ("model", "device", "dtype")
        requested = {name: getattr(options, name) for name in names if hasattr(options, name)}
        if not hasattr(implementation, "on_device") or "auto" not in requested.values():
            return options
        entry = self.record().get("devices", {}).get(stage.name, {})
        if entry.get("asked") != requested:
            chosen = implementation.on_device(options, engines.has_gpu(execution))
            named = {name: getattr(chosen, name) for name in requested if name != "model"}
            if chosen == options:
                return options
            entry = self.settle("devices", stage.name, requested, {"named": named})
        return replace(options, **entry["named"])
