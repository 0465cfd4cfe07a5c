"""Builds from small archives on a server, shared by the tests of faults that fetching had."""

import dataclasses
from pathlib import Path
from typing import Any

from handdata.builds.folder import BuildFolder
from handdata.recipe import Recipe, load
from handdata.stages import Execution, StageReport, fetch, select
from tests import hagrid

QUIET = Execution(progress=False)
CHOSEN = {"gestures": ["call", "ok"], "train": 4, "validation": 1, "test": 2}
QUICK = {"attempts": 3, "backoff": 0.01, "timeout": 1.0, "connections": 2}


def served(folder: Path) -> hagrid.World:
    """Write annotations.zip and images.zip of 14 images below `folder`."""
    world = hagrid.world(train=4, val=1, test=2)
    folder.mkdir(parents=True, exist_ok=True)
    world.write_annotations(folder / "annotations.zip")
    world.write_images(folder / "images.zip")
    return world


def started(tmp_path: Path, annotations: str, images: object, **source: Any) -> Path:
    """Start a build from these places; return its folder."""
    path = tmp_path / "recipe.toml"
    table = {"annotations": annotations, "images": images, **source}
    path.write_text(hagrid.recipe_text(source=table, select=CHOSEN, fetch=QUICK))
    return BuildFolder.start(load(path), tmp_path / "build").path


def recipe_of(build: Path, **source: Any) -> Recipe:
    recipe = BuildFolder.open(build).recipe
    return dataclasses.replace(recipe, source=dataclasses.replace(recipe.source, **source))


def fetched(build: Path, recipe: Recipe | None = None, execution: Execution = QUIET) -> StageReport:
    """Select and fetch a build's images."""
    recipe = recipe or recipe_of(build)
    select.run(build, recipe, execution)
    return fetch.run(build, recipe, execution)


def images(build: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (build / "images").glob("*/*.jpg")}


def holding(folder: Path, secret: bytes) -> list[str]:
    """Return the names of the files below a folder that hold a secret, in their content or name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if secret in path.read_bytes() or secret.decode() in path.name]
