"""The house: which folder may import which, and how large its parts may be.

Imports point one way: a reader of a module needs to know only the modules before it in these lists, and a change of
a later folder cannot break an earlier one. `handdata` makes a dataset; `handtrain` knows the published dataset and of
`handdata` only the modules in SHARED. Ray is imported by the engine alone.
"""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests import ROOT

# Lowest first. Modules and folders of one line do not import each other; a folder's own modules may, without a circle.
ORDER = {
    "handdata": [
        "errors", "shipped markdown readers progress limits", "files gestures strict_toml web machine",
        "recipe assets huggingface",
        # the stages' models on the Hub, for the texts and for the plan of a build; what a build's processes share
        "weights store",
        "vision", "rows", "sources texts world", "dataset photos", "stages", "workers", "builds", "doctor", "cli",
    ],
    "handtrain": [
        "options seals hashes trackers", "tensor_cache", "presets data", "method",
        # `graphs` replays whole steps of the method, `compiling` compiles its network, for training and for bench
        "model graphs compiling",
        "run networks landmark_network", "generation evaluation", "training raters", "reporting",
        "judging publish bench mini exporting",
        "app reproduce", "cli",
    ],
}  # fmt: skip
SHARED = {
    "errors", "files", "machine", "shipped", "markdown", "gestures", "assets", "huggingface", "vision",
    "readers", "progress", "limits", "rows.schema", "rows.published",
}  # fmt: skip
# The mini models are trained on the drawn world and judged by the captioner; both programs share one main function; a
# language model that judges hands is reached through the client that rewrites captions.
ALSO_SHARED = {
    "handtrain.app": {"dataset.evaluate"},  # its rows are those that `handdata.open_dataset` opens
    "handtrain.mini": {"world", "texts.captioners", "recipe"},
    "handtrain.cli": {"cli.program"},
    "handtrain.raters": {"texts.chat", "texts.answers", "texts.openai_server"},
}

MODULES_IN_A_FOLDER = 12
LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 45
LINES_OF_TRAIN = 120  # the training loop is one function that is read from top to bottom

PATHS = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a module's dotted name; a folder's `__init__` has the folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}


def imports(name: str, deferred: bool = True) -> Iterator[str]:
    """Yield the modules of ours that a module imports; without `deferred` only those that importing it imports."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if deferred else _executed(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [imported if imported in MODULES else node.module for imported in names]
        else:
            continue
        yield from (imported for imported in names if imported in MODULES and imported != name)


def _executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from _executed([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def floor(name: str) -> int:
    """Return the place of a module in its package's list; the package itself, which imports lazily, is the highest."""
    package, *rest = name.split(".")
    if not rest or rest == ["__main__"]:
        return len(ORDER[package])
    places = [place for place, line in enumerate(ORDER[package]) if rest[0] in line.split()]
    assert places, f"{name} is missing in ORDER of tests/test_structure.py, which states the folders it may import"
    return places[0]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_modules_before_it_in_the_order(name):
    for other in set(imports(name)):
        same_room = name.split(".")[1:2] == other.split(".")[1:2]
        if name.split(".")[0] == other.split(".")[0]:
            assert same_room or floor(other) < floor(name), f"{name} imports {other}, which is not before it in ORDER"
        else:
            allowed = chain(SHARED, *(more for room, more in ALSO_SHARED.items() if name.startswith(room)))
            part = other.partition(".")[2]
            assert other.startswith("handdata."), f"{name} imports {other}: handdata does not know handtrain"
            assert any(part == shared or part.startswith(f"{shared}.") for shared in allowed), f"{name} imports {other}"


def test_no_import_goes_in_a_circle():
    """Imports inside functions count too: a circle that is hidden that way is a circle to a reader."""
    graph = {name: set(imports(name)) for name in MODULES if name not in ORDER}
    for start in graph:
        reached, waiting = set(), list(graph[start])
        while waiting:
            imported = waiting.pop()
            if imported not in reached:
                reached.add(imported)
                waiting += graph.get(imported, ())
        assert start not in reached, f"{start} imports itself, by way of {sorted(reached & set(graph))[:5]}"


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in PATHS}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_folder_holds_at_most_a_dozen_modules_and_describes_itself(folder):
    modules = [path.name for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(modules) <= MODULES_IN_A_FOLDER, modules
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = LINES_OF_TRAIN if (name, node.name) == ("handtrain.training.train", "train") else LINES_OF_A_FUNCTION
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= most, f"{name}.{node.name} has {lines} lines"


def test_only_the_engine_imports_ray():
    users = [name for name, path in MODULES.items() if "import ray" in path.read_text(encoding="utf-8")]
    assert users == ["handdata.builds.engine"]
