"""The folder of a build: its recipe, its lock, and `run.json`."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from handdata.errors import UserError
from handdata.files import read_sealed_json, require_writable_folder, sha256_of, write_sealed_json, write_text
from handdata.gestures import Gesture
from handdata.recipe import Recipe, dump, find, load, override
from handdata.rows.parts import Part
from handdata.shipped import versions
from handdata.store.folder import Folder
from handdata.store.store import Store, open_store


class BuildFolder:
    """A folder with one build: its path, the recipe in it, and the part of its shards that this process works on.

    The folder of a build under a URL is a copy of what this process needs of it, and `store` copies between them.
    """

    def __init__(self, path: Path, recipe: Recipe, part: Part | None = None, store: Store | None = None) -> None:
        self.path, self.recipe, self.part, self.store = path, recipe, part, store or Folder(path)

    @classmethod
    def start(cls, recipe: str | Path | Recipe, out: str | Path, part: str | None = None, **tables: Any) -> Self:
        """Create a build folder, or give an existing one a new recipe; finished rows are kept.

        `recipe` is a file, the name of a shipped recipe, or a `Recipe`. `tables` change its tables, for instance
        `select={"train": 80}`. With `part`, such as `2/7`, this process works on a part of the shards, next to others,
        which must have the same recipe. Raises `UserError` for an unknown recipe or key, and for a folder that cannot
        be written or that another process works on.
        """
        if not isinstance(recipe, Recipe):
            recipe = load(find(str(recipe)))
        own = None if part is None else Part.parse(part)
        store = open_store(out, part)
        build = cls(store.folder, override(recipe, **tables), own, store)
        require_writable_folder(build.path, "the build folder")
        with build.lock():
            build.write_recipe()
        return build

    @classmethod
    def from_manifest(cls, manifest: Path, out: Path, **tables: Any) -> Self:
        """Create a build folder from a manifest alone; its images are stored in the format that the manifest names.

        The rest of the recipe of a folder that began with a manifest is kept: it may have addresses with passwords.
        Raises `UserError` for a file that is not a manifest.
        """
        from handdata.rows.manifest import image_options, read_foreign
        from handdata.rows.shards import read_table, write_table

        table = read_foreign(manifest)
        image = image_options(table.schema, f"--manifest {manifest}")
        select = {"gestures": tuple(dict.fromkeys(table["gesture"].to_pylist()))}
        build = cls.start(cls.of_manifest(out) or Recipe(out.name), out, select=select, image=image, **tables)
        path = build.path / "manifest.parquet"
        with build.lock():
            build.store.bring(path)
            own = read_table(path)
            if own is None or not own.equals(table, check_metadata=True):
                write_table(table, path)
                build.store.put(path)
        return build

    @staticmethod
    def of_manifest(out: Path) -> Recipe | None:
        """Return the recipe of a folder that began with a manifest, None for another folder."""
        store = open_store(out)
        path = store.folder / "recipe.toml"
        store.bring(path)
        recipe = load(path) if path.is_file() else None
        chooses = recipe is not None and (recipe.source.annotations or recipe.source.kind not in ("zip", "hub"))
        return None if chooses else recipe

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing build. Raises `UserError` for a folder without a recipe."""
        store = open_store(path)
        recipe = store.folder / "recipe.toml"
        store.bring(recipe, store.folder / "run.json")
        if not recipe.is_file():
            raise UserError(
                f"{store.place} is not a build folder: start one with `handdata build RECIPE --out {store.place}`"
            )
        return cls(store.folder, load(recipe), store=store)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the build inside the block; processes with different parts share it.

        Raises `UserError` while another process works on the build, or on the same part.
        """
        with self.store.lock(None if self.part is None else str(self.part)):
            yield

    @staticmethod
    def gestures_of(path: Path) -> dict[str, Gesture]:
        """Return the own gestures of the recipe in a build folder, none without a recipe."""
        return load(path / "recipe.toml").gesture if (path / "recipe.toml").is_file() else {}

    def write_recipe(self) -> None:
        """Write `recipe.toml`. The lock is held, so that a refused process changes nothing.

        Raises `UserError` for a part whose recipe is not that of the other parts; resources may differ.
        """
        path = self.path / "recipe.toml"
        if self.part is None:
            write_text(path, dump(self.recipe))
            self.store.put(path)
            return
        with self.store.exclusive("record"):
            self.store.bring(path)
            if not path.exists():
                write_text(path, dump(self.recipe))
                self.store.put(path)
        self.require_recipe(load(path))

    def require_recipe(self, other: Recipe) -> None:
        """Raise `UserError` for another recipe than the build's; only the resources may differ."""
        if replace(other, resources=self.recipe.resources) != self.recipe:
            raise UserError(
                f"{self.path / 'recipe.toml'} is another recipe: give all parts and --join the same recipe and flags,"
                " or change the build by a run without --part first"
            )

    def record(self) -> dict[str, Any]:
        """Return the content of `run.json`, empty before the first stage."""
        return read_sealed_json(self.path / "run.json") or {}

    def own_rows(self, name: str) -> bool:
        """Return whether a shared file, by its name in the folder, is neither an image nor a shard of another part."""
        folder, _, file = name.partition("/")
        number = file.removesuffix(".parquet")
        return folder != "images" and not (self.part and number.isdecimal() and not self.part.holds(int(number)))

    def update_record(self, stages: dict[str, Any], **more: Any) -> None:
        """Update `run.json`: versions, seed, hashes of the inputs, and the outcome of stages by name."""
        with self.store.exclusive("record"):
            self.store.bring(self.path / "run.json")
            record = self.record()
            self._write_record({**record, **more, "stages": {**record.get("stages", {}), **stages}})

    def settle(self, kind: str, name: str, requested: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of `run.json` that is the same for all processes of the build: the first for this request.

        Without an entry for `requested` the given answer becomes the entry.
        """
        with self.store.exclusive("record"):
            self.store.bring(self.path / "run.json")
            record = self.record()
            entry: dict[str, Any] = record.get(kind, {}).get(name, {})
            if entry.get("asked") != requested:
                entry = {"asked": requested, **answer}
                self._write_record({**record, kind: {**record.get(kind, {}), name: entry}})
            return entry

    def _write_record(self, record: dict[str, Any]) -> None:
        inputs = {"recipe": hashlib.sha256(dump(self.recipe).encode()).hexdigest()}
        manifest = self.path / "manifest.parquet"
        if manifest.exists():
            inputs["manifest"] = sha256_of(manifest)
        software = {"python": platform.python_version(), **versions("pillow", "pyarrow", "numpy")}
        record |= {"name": self.recipe.name, "seed": self.recipe.select.seed, "versions": software, "inputs": inputs}
        write_sealed_json(self.path / "run.json", record)
        self.store.put(self.path / "run.json")
