"""The class `Build`: run the stages of a build in order, then review, drop and publish its rows.

`run` is the way into the code: it takes the stages from the table in `handdata/stages`. A stage that works on shards is
run by `builds/engine`; the others are called here.
"""

import sys
from dataclasses import replace
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
from handdata.errors import UserError
from handdata.gestures import also
from handdata.huggingface import model_folder
from handdata.stages import Execution, StageReport, StageSpec, stage_named, stages_for, stages_until


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
    ) -> dict[str, StageReport]:
        """Run all stages in order, those up to `until`, or the stage `only`; return their reports by name.

        Shards that were finished from the same inputs are kept, so the same call resumes a build that was stopped.
        `engine` is local or ray, `workers` the number of processes per stage; the rows do not depend on them. With
        `verify` every file that the build relies on is read first, and damaged ones are listed on stderr. Raises
        `UserError` for a mistake, `Unfinished` if a stage cannot continue.
        """
        if engine not in engines.ENGINES:
            raise UserError(f"unknown engine '{engine}': use {' or '.join(engines.ENGINES)}")
        execution, reports = Execution(engine, workers, progress), {}
        stages = stages_until(until) if only is None else (stage_named(only),)
        with self.lock(), also(self.recipe.gesture):
            self.write_recipe()  # another process may have started since, and changed it
            if verify:
                print(verification.report(verification.verify(self)), file=sys.stderr)
            for stage in stages_for(self.recipe, stages):
                implementation = stage.load()
                if isinstance(implementation, type):  # a `Stage`, which works on shards
                    options = self._options(stage, implementation)
                    if verify and hasattr(implementation, "at_commit"):
                        model, _ = model_folder(options.model, options.revision)
                        verification.verify_model(model, f"--{stage.table}.model")
                    report = engines.run(stage, options, self.path, execution)
                else:  # a function, which works on the whole build
                    report = implementation(self.path, self.recipe, execution)
                outcome = {"rows": report.rows, "failed": dict(sorted(report.failed.items()))}
                self.update_record({stage.name: outcome}, **report.notes)
                reports[stage.name] = report
        return reports

    def status(self) -> dict[str, Any]:
        """Return the state of the build as plain data: rows done, failed and left by stage, decisions, dataset."""
        return status(self)

    def review(self) -> Path:
        """Write the review page, on which a person accepts, rejects and corrects rows; return its path."""
        return write_page(self.path)

    def apply_review(self, exported: str | Path) -> Applied:
        """Add the decisions of a file that the review page exported; all later runs follow them."""
        return apply_decisions(self.path, Path(exported))

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

    def _options(self, stage: StageSpec, implementation: Any) -> Any:
        """Return a stage's options, with a model's branch replaced by the commit that it first resolved to.

        The branch may move between two runs, but all rows of a build come from one model.
        """
        options: Any = getattr(self.recipe, stage.table) if stage.table else None
        if not hasattr(implementation, "at_commit"):
            return options
        requested, pins = {"model": options.model, "revision": options.revision}, self.record().get("pins", {})
        if pins.get(stage.name, {}).get("asked") == requested:
            return replace(options, revision=pins[stage.name]["commit"])
        pinned = implementation.at_commit(options)
        if pinned != options:
            self.update_record({}, pins={**pins, stage.name: {"asked": requested, "commit": pinned.revision}})
        return pinned
