"""Make a dataset of hand gesture photographs with texts that name the gesture.

build = handdata.Build.start("mini", "build/mini")
build.run()
dataset = handdata.open_dataset(build.publish("./dataset/mini").place)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handdata.builds.build import Build
    from handdata.dataset.evaluate import open_dataset
    from handdata.recipe import Recipe

__all__ = ["Build", "Recipe", "open_dataset"]

_MODULES = {"Build": "builds.build", "Recipe": "recipe", "open_dataset": "dataset.evaluate"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import handdata` itself imports nothing heavy."""
    if name not in _MODULES:
        raise AttributeError(f"module 'handdata' has no attribute '{name}'")
    return getattr(import_module(f"handdata.{_MODULES[name]}"), name)
