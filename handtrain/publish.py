"""Publish a model folder to the Hub or to another folder, and verify the published files."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.files import require_only, sha256_by_path, sha256_of, whole_folder, write_json
from handdata.huggingface import HubName, Place, hub_errors, parse_new
from handdata.markdown import markdown_table
from handdata.readers import read_json, require_json
from handtrain.evaluation.records import read_evaluation
from handtrain.model.about import require_whole
from handtrain.model.export import write_texts
from handtrain.model.gesture_file import ABOUT_FILE
from handtrain.reporting.tables import metric_table, remarks

_LIST, _LIST_FORMAT = "checksums.json", "hand1000 model 1"  # of a published folder: the sha256 of every file by path


def publish(model: Path | str, to: Place | str, private: bool = False, metrics: Path | None = None) -> str:
    """Publish a model folder (or its run folder) with a new card; return the place that it can be loaded from.

    `metrics` is a JSON file for the card: of `handtrain evaluate`, or of names and values. Raises `UserError` for a
    folder that is not a finished model, and `Unfinished` if the published files differ from the model's.
    """
    folder, to = _model_folder(Path(model)), parse_new(to, "--to")
    about = require_whole(folder, "--model")
    write_texts(folder, about, _metrics(metrics))
    llama3 = bool(about.get("training", {}).get("llama3"))
    if isinstance(to, HubName):
        return _to_hub(folder, to, private, llama3)
    if llama3 and not _named_for_llama3(to.name):
        print(
            "handtrain: Llama 3 wrote the texts: its licence requires a model name that begins with 'Llama 3'",
            file=sys.stderr,
        )
    return _to_folder(folder, to)


def _model_folder(model: Path) -> Path:
    for folder in (model, model / "model"):
        if (folder / ABOUT_FILE).is_file() and (folder / "model_index.json").is_file():
            return folder
    raise UserError(f"--model {model} is not a model of handtrain ({ABOUT_FILE} is missing): finish its run first")


def _metrics(path: Path | None) -> str:
    """Return the card's table from a JSON file of `handtrain evaluate --json`, or of names and values."""
    if path is None:
        return ""
    metrics = require_json(path, "--metrics")
    if {"format", "metrics", "preparation"} <= metrics.keys():
        evaluation = read_evaluation(path, "--metrics")
        return "\n".join([metric_table(evaluation).markdown(), "", *(f"- {remark}" for remark in remarks(evaluation))])
    if any(isinstance(value, dict | list) for value in metrics.values()):
        raise UserError(
            f"--metrics {path} must be a file of `evaluate --json`, or contain one JSON object of names and values"
        )
    return markdown_table(["metric", "value"], metrics.items())


def _to_folder(folder: Path, to: Path) -> str:
    """Replace the files that an earlier `publish` wrote to the folder. Its list of files is `checksums.json`."""
    if to.resolve() == folder.resolve() or folder.resolve() in to.resolve().parents:
        raise UserError(f"--to {to} is the model itself or inside it: choose another folder")
    hashes = {path: value for path, value in sha256_by_path(folder).items() if path != _LIST}
    listed = read_json(to / _LIST) or {}
    earlier = listed.get("files") if listed.get("format") == _LIST_FORMAT else None
    # before version 1 of the list, an earlier model had the files of this one
    ours = [_LIST, *earlier] if isinstance(earlier, dict) else hashes if (to / ABOUT_FILE).is_file() else []
    require_only(to, ours, "--to")
    with whole_folder(to) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        (partial / _LIST).unlink(missing_ok=True)
        if sha256_by_path(partial) != hashes:
            raise Unfinished(
                f"--to {to}: the copy differs from the model; check the disk and run the same command again"
            )
        write_json(partial / _LIST, {"format": _LIST_FORMAT, "files": hashes})
    return str(to)


def _to_hub(folder: Path, to: HubName, private: bool, llama3: bool) -> str:
    from huggingface_hub import HfApi

    user, name = to.repo.split("/")
    if llama3 and not _named_for_llama3(name):
        raise UserError(
            f"--to {to}: Llama 3 wrote the texts, and its licence requires a model name that begins with 'Llama 3': "
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
    # The Hub returns the sha256 of large files and the git hash of small ones, so nothing is downloaded.
    published = {entry.path: entry for entry in api.list_repo_tree(to.repo, recursive=True, revision=commit)}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        entry = published.get(path.relative_to(folder).as_posix())
        if entry is None:
            raise Unfinished(f"--to {to}: {path.name} is missing; run the same command again")
        equal = entry.lfs.sha256 == sha256_of(path) if entry.lfs else entry.blob_id == _git_hash(path.read_bytes())
        if not equal:
            raise Unfinished(f"--to {to}: {path.name} is damaged; run the same command again")


def _named_for_llama3(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "").startswith("llama3")


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
