"""Publish to the Hugging Face Hub: one commit that replaces `data/`, then checksums and row counts read back.

The commit is made with `create_commit` and not `upload_folder`: on the Xet path the latter splits a folder into several
commits, between which the repository would hold half a dataset (huggingface_hub 2.4, `_upload_pipeline`).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handdata.builds.publish import Payload, Published, name_is_valid
from handdata.dataset.checksums import CHECKSUMS, read_checksums
from handdata.errors import Unfinished, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_PAUSES = (1.0, 4.0, 15.0)  # seconds between tries; the library tries uploads again by itself besides
_BUSY = (408, 425, 429)
_UNTOUCHED = (".gitattributes",)  # the Hub's own


def repository_name(to: str) -> str:
    """Return USER/NAME of `hf:USER/NAME`; raise `UserError` if the Hub would not take it."""
    name = to.removeprefix("hf:")
    if not name_is_valid(name):
        raise UserError(
            f"--to {to}: '{name}' is not a name on the Hub; write hf:USER/NAME with letters, digits, '-', '_' and '.'"
        )
    return name


def publish(what: Payload, name: str, private: bool, revision: str | None, purge_history: bool) -> Published:
    """Publish files to a dataset repository and read them back; see `handdata.publish.publish`."""
    api = _signed_in()
    branch = revision or "main"
    head = _prepare(api, name, private, branch, purge_history)
    before = _listing(api, name, head)
    stale = _stale(api, name, head, before)
    sha = _commit(api, name, branch, head, what, stale)
    _read_back(api, name, sha, what)
    url = f"{api.endpoint}/datasets/{name}" + (f"/tree/{branch}" if revision else "")
    remark = _about_history(api, name, branch, sha, before, what, purge_history)
    if purge_history:
        sha = str(_call(lambda: api.dataset_info(name, revision=branch).sha, name))
    return Published(url, sha, what.rows, len(what.files), what.bytes, remark)


def _signed_in() -> "HfApi":
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError("there is no token for the Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="hand1000")
    _call(lambda: api.whoami(), "")
    return api


def _prepare(api: "HfApi", name: str, private: bool, branch: str, purge_history: bool) -> str:
    """Make sure that repository and branch are there and ours; return the branch's commit."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = _call(lambda: api.dataset_info(name), name)
    except RepositoryNotFoundError:
        _call(lambda: api.create_repo(name, repo_type="dataset", private=private, exist_ok=True), name)
        info = _call(lambda: api.dataset_info(name), name)
    if private and not info.private:
        _call(lambda: api.update_repo_settings(name, repo_type="dataset", private=True), name)
    try:
        head = _call(lambda: api.dataset_info(name, revision=branch), name)
    except RevisionNotFoundError:
        _call(lambda: api.create_branch(name, repo_type="dataset", branch=branch, exist_ok=True), name)
        head = _call(lambda: api.dataset_info(name, revision=branch), name)
    if purge_history:
        _require_single_branch(api, name, branch)
    return str(head.sha)


def _require_single_branch(api: "HfApi", name: str, branch: str) -> None:
    refs = _call(lambda: api.list_repo_refs(name, repo_type="dataset"), name)
    others = [ref.name for ref in [*refs.branches, *refs.tags] if ref.name != branch]
    if others:
        raise UserError(f"--purge-history: {', '.join(others)} of {name} may hold older files too: delete these first")


def _listing(api: "HfApi", name: str, commit: str) -> dict[str, Any]:
    """Return the files of a commit by path."""
    from huggingface_hub import RepoFile

    entries = _call(lambda: list(api.list_repo_tree(name, repo_type="dataset", revision=commit, recursive=True)), name)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _stale(api: "HfApi", name: str, head: str, there: dict[str, Any]) -> set[str]:
    """Return the files of an earlier version of ours. Raises `UserError` for a repository with other content."""
    if CHECKSUMS not in there:
        foreign = sorted(set(there) - set(_UNTOUCHED))
        if foreign:
            raise UserError(
                f"--to hf:{name}: that repository holds other content ('{foreign[0]}'): give another name, or empty it"
            )
        return set()
    place = _call(lambda: api.hf_hub_download(name, CHECKSUMS, repo_type="dataset", revision=head), name)
    listed = set(read_checksums(Path(place).read_text(encoding="utf-8")))
    return {path for path in there if path in listed or path.startswith("data/")}


def _commit(api: "HfApi", name: str, branch: str, head: str, what: Payload, stale: set[str]) -> str:
    """Make the one commit; return its hash. A commit whose answer was lost is recognised, not made again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def attempt() -> str:
        now = api.dataset_info(name, revision=branch).sha
        if now != head and not _differences(_listing(api, name, str(now)), what):
            return str(now)
        gone = [CommitOperationDelete(path) for path in sorted(stale - set(what.files))]
        added = [CommitOperationAdd(path, source) for path, source in what.files.items()]
        message = f"Publish {what.rows:,} rows"
        return str(
            api.create_commit(
                name, [*gone, *added], commit_message=message, repo_type="dataset", revision=branch, parent_commit=head
            ).oid
        )

    return _call(attempt, name)


def _read_back(api: "HfApi", name: str, commit: str, what: Payload) -> None:
    """Compare every file's hash, and the row count in every Parquet footer, with what was sent."""
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    wrong = _differences(_listing(api, name, commit), what)
    if wrong:
        raise Unfinished(f"{wrong[0]} on the Hub is not what was sent: run the same command again")
    files = HfFileSystem(endpoint=api.endpoint)

    def rows(path: str) -> int:
        with files.open(f"datasets/{name}@{commit}/{path}", block_size=1 << 16) as file:
            return int(pq.read_metadata(file).num_rows)

    for path, entry in what.checksums.items():
        if "rows" in entry:
            found = _call(lambda path=path: rows(path), name)  # type: ignore[misc]
            assert found == entry["rows"], f"{path} has {found} rows on the Hub, {entry['rows']} were sent"


def _differences(there: dict[str, Any], what: Payload) -> list[str]:
    """Return the paths of our files and of data/ whose content on the Hub is not what was sent."""
    from huggingface_hub.utils.sha import git_hash

    wrong = [path for path in there if path.startswith("data/") and path not in what.files]
    for path, source in what.files.items():
        entry = there.get(path)
        if entry is None:
            wrong.append(path)
        elif entry.lfs:
            wrong += [path] if entry.lfs.sha256 != what.checksums[path]["sha256"] else []
        else:
            data = source if isinstance(source, bytes) else source.read_bytes()
            wrong += [path] if entry.blob_id != git_hash(data) else []
    return wrong


def _about_history(
    api: "HfApi", name: str, branch: str, commit: str, before: dict[str, Any], what: Payload, purge: bool
) -> str:
    """Clear the history if asked to; return what is to be said of it."""
    if purge:
        stored = _call(
            lambda: list(api.list_lfs_files(name, repo_type="dataset")), name
        )  # while commits still name them
        _call(lambda: api.super_squash_history(name, repo_type="dataset", branch=branch), name)
        kept = {entry.lfs.sha256 for entry in _listing(api, name, branch).values() if entry.lfs}
        old = [file for file in stored if file.oid not in kept]
        _call(lambda: api.permanently_delete_lfs_files(name, old, repo_type="dataset"), name)
        return f"the history is cleared; {len(old)} files of earlier versions were deleted for good"
    hashes = {entry["sha256"] for entry in what.checksums.values()}
    old_files = [path for path, entry in before.items() if entry.lfs and entry.lfs.sha256 not in hashes]
    if old_files:
        return f"the history still holds {len(old_files)} files of the version before: --purge-history deletes them"
    return ""


def _call(action: Callable[[], T], name: str) -> T:
    """Call the Hub, again after a pause where that may help; turn its refusals into one clear sentence."""
    import httpx2
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for pause in (*_PAUSES, None):
        try:
            return action()
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
            raise
        except (HfHubHTTPError, httpx2.TransportError, RuntimeError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) else error  # the library's words for an upload
            if not isinstance(cause, HfHubHTTPError | httpx2.TransportError):
                raise
            uploading = cause is not error
            if pause is None or not (_may_pass(cause) or (uploading and _status(cause) == 400)):
                raise _explained(cause, name) from None
            time.sleep(pause)
    raise AssertionError("unreachable")


def _status(error: Any) -> int:
    response = getattr(error, "response", None)
    return 0 if response is None else int(response.status_code)


def _may_pass(error: Any) -> bool:
    return _status(error) == 0 or _status(error) in _BUSY or _status(error) >= 500


def _explained(error: Any, name: str) -> UserError | Unfinished:
    status = _status(error)
    if status == 401:
        return UserError("the Hub refuses the token, it may have expired: run `hf auth login`, or set HF_TOKEN")
    if status == 403:
        return UserError(f"the token may not write to {name}: use one with write access, or another USER")
    if status == 412:
        return Unfinished(f"somebody else changed {name} meanwhile: look there, then run the same command again")
    again = "nothing was half-published; run the same command again"
    if status:
        return Unfinished(f"the Hub answered with error {status} to every try: {again}")
    return Unfinished(f"the Hub cannot be reached ({type(error).__name__}): {again}")
