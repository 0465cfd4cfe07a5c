"""The folder of a build: its recipe, its lock, and `run.json`."""

import hashlib
import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from handdata.errors import UserError
from handdata.files import locked, read_sealed_json, require_writable_folder, sha256_of, write_sealed_json, write_text
from handdata.gestures import Gesture
from handdata.recipe import Recipe, dump, find, load, override
from handdata.shipped import versions


class BuildFolder:
    """A folder with one build: its path, and the recipe in it."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe

    @classmethod
    def start(cls, recipe: str | Path | Recipe, out: str | Path, **tables: Any) -> Self:
        """Create a build folder, or give an existing one a new recipe; finished rows are kept.

        `recipe` is a file, the name of a shipped recipe, or a `Recipe`. `tables` change its tables, for instance
        `select={"train": 80}`. Raises `UserError` for an unknown recipe or key, and for a folder that cannot be written
        or that another process works on.
        """
        if not isinstance(recipe, Recipe):
            recipe = load(find(str(recipe)))
        build = cls(Path(out), override(recipe, **tables))
        require_writable_folder(build.path, "the build folder")
        with build.lock():
            build.write_recipe()
        return build

    @classmethod
    def from_manifest(cls, manifest: Path, out: Path, **tables: Any) -> Self:
        """Create a build folder from a manifest alone; its images are stored in the format that the manifest names.

        Raises `UserError` for a file that is not a manifest.
        """
        from handdata.rows.manifest import image_options, read_foreign
        from handdata.rows.shards import read_table, write_table

        table = read_foreign(manifest)
        image = image_options(table.schema, f"--manifest {manifest}")
        select = {"gestures": tuple(dict.fromkeys(table["gesture"].to_pylist()))}
        build = cls.start(Recipe(out.name), out, select=select, image=image, **tables)
        with build.lock():
            own = read_table(out / "manifest.parquet")
            if own is None or not own.equals(table, check_metadata=True):
                write_table(table, out / "manifest.parquet")
        return build

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing build. Raises `UserError` for a folder without a recipe."""
        path = Path(path)
        if not (path / "recipe.toml").is_file():
            raise UserError(f"{path} is not a build folder: start one with `handdata build RECIPE --out {path}`")
        return cls(path, load(path / "recipe.toml"))

    def lock(self) -> AbstractContextManager[None]:
        """Return a context that locks the folder. Raises `UserError` while another process works on it."""
        busy = f"process {{process}} is working on {self.path}: wait for it or end it"
        return locked(self.path / ".lock", busy)

    @staticmethod
    def gestures_of(path: Path) -> dict[str, Gesture]:
        """Return the own gestures of the recipe in a build folder, none without a recipe."""
        return load(path / "recipe.toml").gesture if (path / "recipe.toml").is_file() else {}

    def write_recipe(self) -> None:
        """Write `recipe.toml`. The lock is held, so that a refused process changes nothing."""
        write_text(self.path / "recipe.toml", dump(self.recipe))

    def record(self) -> dict[str, Any]:
        """Return the content of `run.json`, empty before the first stage."""
        return read_sealed_json(self.path / "run.json") or {}

    def update_record(self, stages: dict[str, Any], **more: Any) -> None:
        """Update `run.json`: versions, seed, hashes of the inputs, and the outcome of stages by name."""
        record = self.record()
        inputs = {"recipe": hashlib.sha256(dump(self.recipe).encode()).hexdigest()}
        manifest = self.path / "manifest.parquet"
        if manifest.exists():
            inputs["manifest"] = sha256_of(manifest)
        software = {"python": platform.python_version(), **versions("pillow", "pyarrow", "numpy")}
        record |= {"name": self.recipe.name, "seed": self.recipe.select.seed, "versions": software, **more}
        record |= {"inputs": inputs, "stages": {**record.get("stages", {}), **stages}}
        write_sealed_json(self.path / "run.json", record)
