"""The models that the stages of a recipe need: what is left to download, and under which licence."""

import fnmatch
from dataclasses import dataclass, replace
from pathlib import Path

from handdata import assets
from handdata.huggingface import HubName, local_model
from handdata.recipe import CaptionOptions, Recipe, RewriteOptions, flag
from handdata.weights.gguf import OPTION, hub_file, require_file
from handdata.weights.hub import repo_facts

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")  # of a model of transformers, next to its weights


@dataclass(frozen=True)
class Needed:
    """A stage's model."""

    stage: str
    model: str
    place: str  # Hub, server, assets, or this machine
    download: int | None = 0  # bytes that are not on this machine yet; None: unknown
    licence: str | None = None
    gated: bool = False


def needed(recipe: Recipe, offline: bool = False) -> list[Needed]:
    """Return the models of a recipe's stages; with `offline` nothing is looked up on the Hub, and sizes are unknown.

    Raises `UserError` for a model that does not exist.
    """
    landmarks = _asset("landmarks", "hand-landmarker")
    return [landmarks, _captioner(recipe.caption, offline), _rewriter(recipe.rewrite, offline)]


def _captioner(options: CaptionOptions, offline: bool) -> Needed:
    model = Needed("caption", options.model, "this machine")
    if options.server:
        return replace(model, place="server")
    if local_model(options.model):
        return replace(model, model=Path(options.model).name)
    repo, _, revision = options.model.removeprefix("hf:").partition("@")
    return _on_hub(model, HubName(repo, revision or options.revision), None, flag("caption", "model"), offline)


def _rewriter(options: RewriteOptions, offline: bool) -> Needed:
    model = Needed("rewrite", options.model, "this machine")
    if options.server:
        return replace(model, place="server")
    file = hub_file(options)
    if file is not None:
        return _on_hub(model, file.name, file.path, OPTION, offline)
    if options.model in assets.assets():
        return _asset("rewrite", options.model)
    return replace(model, model=require_file(options.model).name)


def _asset(stage: str, name: str) -> Needed:
    asset = assets.assets()[name]
    there = (assets.cache_folder() / asset.file).is_file()
    return Needed(stage, name, "assets", 0 if there else asset.bytes, asset.licence)


def _on_hub(model: Needed, name: HubName, file: str | None, option: str, offline: bool) -> Needed:
    """Return a model with the size of its files that the Hub's cache lacks: one file, or those of transformers."""
    from huggingface_hub import try_to_load_from_cache

    facts = None if offline else repo_facts(name, option)
    if facts is None:
        return replace(model, place="Hub", download=None)
    weights = "*.safetensors" if any(path.endswith(".safetensors") for path in facts.sizes) else "*.bin"
    patterns = (file,) if file else (*_SMALL, weights)
    wanted = [path for path in facts.sizes if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]
    commit = facts.name.revision
    left = [path for path in wanted if not isinstance(try_to_load_from_cache(name.repo, path, revision=commit), str)]
    sizes = [facts.sizes[path] for path in left]
    download = None if None in sizes or not wanted else sum(size or 0 for size in sizes)
    return replace(model, place="Hub", download=download, licence=facts.licence, gated=facts.gated)
