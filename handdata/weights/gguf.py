"""The GGUF file of the recipe's table `[rewrite]`: a file, one of `handdata assets`, or one on the Hub.

A file on the Hub is pinned by its commit and by the sha256 in the Hub's LFS listing; the fetched file must have it.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from handdata import assets
from handdata.errors import Unfinished, UserError
from handdata.files import sha256_of
from handdata.huggingface import HubName, at_commit, snapshot
from handdata.recipe import RewriteOptions, flag
from handdata.weights.hub import repo_facts, require_access

OPTION = flag("rewrite", "model")
# Names for files on the Hub. Their hashes are not listed: a build takes them from the Hub and keeps them in run.json.
NAMED = {  # the paper rewrites with LLaMA 3 (section 4); 4 bits per weight fit into 6 GB
    "llama-3-8b-instruct": (
        "hf:QuantFactory/Meta-Llama-3-8B-Instruct-GGUF/Meta-Llama-3-8B-Instruct.Q4_K_M.gguf"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the Hub."""

    name: HubName
    path: str


def hub_file(options: RewriteOptions) -> HubFile | None:
    """Return the file on the Hub that the options name, None for another model. Raises `UserError`."""
    model = options.model if Path(options.model).is_file() else NAMED.get(options.model, options.model)
    if options.server or not model.startswith("hf:"):
        return None
    parts = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)/([^@\s*?\[\]]+\.gguf)(?:@([\w./-]+))?", model, re.ASCII)
    if not parts:
        raise UserError(f"{OPTION} {model} is not a file on the Hub: write hf:USER/NAME/FILE.gguf")
    revision = options.revision if options.revision != RewriteOptions().revision else parts[3] or options.revision
    return HubFile(HubName(parts[1], revision), parts[2])


def pinned(options: RewriteOptions) -> RewriteOptions:
    """Return the options with the commit and the sha256 of a file on the Hub; those of other models unchanged.

    Raises `UserError` for a repository, revision or file that the Hub does not have, and for a gated model whose terms
    the user has not accepted; `Unfinished` if the Hub cannot be reached and the cache does not know the commit.
    """
    file = hub_file(options)
    if file is None:
        return options
    name = at_commit(file.name, "model", OPTION)
    require_access(name, OPTION)
    facts, sha256 = repo_facts(name, OPTION), options.sha256
    if facts is not None:
        if file.path not in facts.sizes:
            raise UserError(f"{OPTION}: {name} has no file {file.path}{_others(list(facts.sizes))}")
        listed = facts.hashes.get(file.path, sha256)
        if sha256 and listed != sha256:
            raise UserError(
                f"{flag('rewrite', 'sha256')} is not that of {file.path} in {name}, {listed}: correct one of the two"
            )
        sha256 = listed
    return replace(options, revision=str(name.revision), sha256=sha256)


def gguf_file(options: RewriteOptions) -> Path:
    """Return the GGUF file of the options; one on the Hub is fetched into its cache.

    Raises `UserError` if it does not exist or has another hash than the recipe states, `Unfinished` if it cannot be
    fetched or was damaged on the way.
    """
    file = hub_file(options)
    if file is not None:
        path = snapshot(at_commit(file.name, "model", OPTION), "model", OPTION, [file.path]) / file.path
        if not path.is_file():
            raise UserError(f"{OPTION}: {file.name} has no file {file.path}")
        if options.sha256 and _hash_of(path) != options.sha256:
            raise Unfinished(f"{path.resolve()} is damaged: delete it, and the same command fetches it again")
        return path
    path = assets.path(options.model) if options.model in assets.assets() else require_file(options.model)
    if options.sha256 and _hash_of(path) != options.sha256:
        raise UserError(
            f"{path} does not have the hash that {flag('rewrite', 'sha256')} states: correct one of the two"
        )
    return path


def require_file(model: str) -> Path:
    """Return the path of a local GGUF file. Raises `UserError` if it does not exist."""
    if not Path(model).is_file():
        raise UserError(
            f"model file {model} does not exist: give a GGUF file with {OPTION}, hf:USER/NAME/FILE.gguf for one on the"
            f" Hub, or a name: {', '.join(NAMED)}, or smollm2-135m, a small one for trials"
        )
    return Path(model)


def gguf_hash(options: RewriteOptions) -> str:
    """Return the sha256 of the GGUF file."""
    return _hash_of(gguf_file(options))


def _hash_of(path: Path) -> str:
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def _others(paths: list[str]) -> str:
    files = [path for path in paths if path.endswith(".gguf")]
    return f"; it has {', '.join(files[:5])}" if files else ", nor another .gguf file"
