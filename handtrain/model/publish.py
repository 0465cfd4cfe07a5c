"""Publish a model folder to the Hub or to another folder, and read back what arrived."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.huggingface import HubName, Place, hub_errors
from handtrain.model.card import model_card
from handtrain.model.export import one_file
from handtrain.model.pipeline import ABOUT_FILE


def publish(model: Path, to: Place, private: bool = False, metrics: Path | None = None) -> str:
    """Publish a model folder (or the run folder around it) with a fresh card; return where it can be loaded from.

    `metrics` is a JSON file for the card: of `handtrain evaluate`, or of names and values. Raises `UserError` for a
    folder that is no finished model, and `Unfinished` if what arrived is not what was sent.
    """
    folder = _model_folder(model)
    about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    (folder / "README.md").write_text(model_card(about, _metrics(metrics)), encoding="utf-8")
    (folder / "pipeline.py").write_text(one_file(), encoding="utf-8")
    llama3 = bool(about.get("training", {}).get("llama3"))
    if isinstance(to, HubName):
        return _to_hub(folder, to, private, llama3)
    if llama3 and not _named_for_llama3(to.name):
        print(
            "handtrain: Llama 3 wrote the texts: its licence asks for a model name that begins with 'Llama 3'",
            file=sys.stderr,
        )
    return _to_folder(folder, to)


def _model_folder(model: Path) -> Path:
    for folder in (model, model / "model"):
        if (folder / ABOUT_FILE).is_file() and (folder / "model_index.json").is_file():
            return folder
    raise UserError(f"--model {model} is not a model of handtrain (no {ABOUT_FILE}): finish its run first")


def _metrics(path: Path | None) -> str:
    """Return the card's table of a file: what `handtrain evaluate --json` wrote, or names and values."""
    if path is None:
        return ""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise UserError(f"--metrics {path} is not a JSON file") from None
    if isinstance(metrics, dict) and {"format", "metrics", "preparation"} <= metrics.keys():
        from handtrain.reporting.tables import metric_table, remarks

        return "\n".join([metric_table(metrics).markdown(), "", *(f"- {remark}" for remark in remarks(metrics))])
    if not isinstance(metrics, dict) or any(isinstance(value, dict | list) for value in metrics.values()):
        raise UserError(
            f"--metrics {path} must be what `evaluate --json` wrote, or one JSON object of names and values"
        )
    return "| metric | value |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in metrics.items())


def _to_folder(folder: Path, to: Path) -> str:
    if to.exists() and any(to.iterdir()) and not (to / ABOUT_FILE).is_file():
        raise UserError(f"--to {to} holds something else: choose a new folder, or one with an earlier version")
    if to.resolve() == folder.resolve():
        raise UserError(f"--to {to} is the model itself: choose another folder")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, partial)
    if _hashes(partial) != _hashes(folder):
        raise Unfinished(f"--to {to}: what arrived is not what was sent; check the disk and run the same command again")
    shutil.rmtree(to, ignore_errors=True)
    partial.rename(to)
    return str(to)


def _to_hub(folder: Path, to: HubName, private: bool, llama3: bool) -> str:
    from huggingface_hub import HfApi

    user, name = to.repo.split("/")
    if llama3 and not _named_for_llama3(name):
        raise UserError(
            f"--to {to}: Llama 3 wrote the texts, and its licence asks for a model name that begins with 'Llama 3': "
            f"use hf:{user}/Llama-3-{name}"
        )
    api = HfApi()
    with hub_errors(to, "--to"):
        api.create_repo(to.repo, private=private, exist_ok=True)
        if to.revision:
            api.create_branch(to.repo, branch=to.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=to.repo, folder_path=folder, revision=to.revision, commit_message="Publish a hand1000 model"
        )
        _read_back(api, folder, to, commit.oid)
    return f"hf:{to.repo}@{commit.oid}"


def _read_back(api: Any, folder: Path, to: HubName, commit: str) -> None:
    # The Hub tells a large file's sha256 and a small one's git hash: each proves the content without a download.
    there = {entry.path: entry for entry in api.list_repo_tree(to.repo, recursive=True, revision=commit)}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        entry = there.get(path.relative_to(folder).as_posix())
        if entry is None:
            raise Unfinished(f"--to {to}: {path.name} did not arrive; run the same command again")
        data = path.read_bytes() if not entry.lfs else b""
        right = entry.lfs.sha256 == _sha256(path) if entry.lfs else entry.blob_id == _git_hash(data)
        if not right:
            raise Unfinished(f"--to {to}: {path.name} arrived damaged; run the same command again")


def _named_for_llama3(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "").startswith("llama3")


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
