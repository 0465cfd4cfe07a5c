"""Upload to the Hugging Face Hub: one commit that replaces `data/`, then checksums and row counts read back.

The commit is made with `create_commit` and not `upload_folder`: on the Xet path the latter splits a folder into several
commits, between which the repository would hold half a dataset (huggingface_hub 2.4, `_upload_pipeline`).
"""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from handdata.builds.payload import Payload, Published
from handdata.dataset.checksums import CHECKSUMS, read_checksums
from handdata.errors import Unfinished, UserError
from handdata.huggingface import HubName, hub_errors, hub_token

_PAUSES = (1.0, 4.0, 15.0)  # seconds between attempts, in addition to the library's own attempts
_BUSY = (408, 425, 429)
_UNTOUCHED = (".gitattributes",)  # written by the Hub
_AGAIN = "nothing was half-published; run the same command again"


def repository_name(to: str) -> str:
    """Return USER/NAME of `hf:USER/NAME`. Raises `UserError` for a name that the Hub does not accept."""
    name = to.removeprefix("hf:")
    part = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    if not re.fullmatch(f"{part}/{part}", name) or "--" in name or ".." in name or len(name) > 96:
        raise UserError(
            f"--to {to}: '{name}' is not a name on the Hub; write hf:USER/NAME with letters, digits, '-', '_' and '.'"
        )
    return name


def publish(sent: Payload, name: str, private: bool, revision: str | None, purge_history: bool) -> Published:
    """Publish files to a dataset repository and read them back; errors are those of `builds.publish.publish`."""
    hub, branch = Hub(name), revision or "main"
    head = hub.prepare(private, branch, purge_history)
    before = hub.listing(head)
    commit = hub.commit(branch, head, sent, hub.stale(head, before))
    hub.read_back(commit, sent)
    if purge_history:
        remark = hub.purge_history(branch)
        commit = str(hub.call("repo_info", revision=branch).sha)
    else:
        remark = _about_history(before, sent)
    endpoint = re.sub("//[^/@]*@", "//", hub.api.endpoint)  # HF_ENDPOINT may hold a password
    place = f"{endpoint}/datasets/{name}" + (f"/tree/{branch}" if revision else "")
    return Published(place, commit, sent.rows, len(sent.files), sent.bytes, remark)


class Hub:
    """A dataset repository on the Hub, with the user's token."""

    def __init__(self, name: str) -> None:
        from huggingface_hub import HfApi

        if hub_token() is None:
            raise UserError("no Hub token: run `hf auth login` or set HF_TOKEN")
        self.name, self.api = name, HfApi(library_name="hand1000")
        with hub_errors(HubName(name), "--to"):
            self._repeated(self.api.whoami)

    def call(self, method: str, **keywords: Any) -> Any:
        """Call a method of the Hub's API on this repository; a generator's items are returned as a list.

        The call is repeated after a pause where that may help. Raises `UserError` or `Unfinished` with one sentence,
        and the library's own errors for a missing repository, revision or file.
        """

        def action() -> Any:
            result = getattr(self.api, method)(self.name, repo_type="dataset", **keywords)
            return list(result) if isinstance(result, Iterator) else result

        return self._repeated(action)

    def prepare(self, private: bool, branch: str, purge_history: bool) -> str:
        """Create the repository and the branch if they are missing; return the branch's commit."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            about = self.call("repo_info")
        except RepositoryNotFoundError:
            self.call("create_repo", private=private, exist_ok=True)
            about = self.call("repo_info")
        if private and not about.private:
            self.call("update_repo_settings", private=True)
        try:
            head = self.call("repo_info", revision=branch)
        except RevisionNotFoundError:
            self.call("create_branch", branch=branch, exist_ok=True)
            head = self.call("repo_info", revision=branch)
        if purge_history:
            self._require_single_branch(branch)
        return str(head.sha)

    def listing(self, commit: str) -> dict[str, Any]:
        """Return the files of a commit by path."""
        from huggingface_hub import RepoFile

        entries = self.call("list_repo_tree", revision=commit, recursive=True)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def stale(self, head: str, present: dict[str, Any]) -> set[str]:
        """Return the files of an earlier version of ours. Raises `UserError` for a repository with other content."""
        if CHECKSUMS not in present:
            foreign = sorted(set(present) - set(_UNTOUCHED))
            if foreign:
                raise UserError(
                    f"--to hf:{self.name}: the repository holds other content ('{foreign[0]}'): give another name, or"
                    " empty it"
                )
            return set()
        listed = read_checksums(Path(self.call("hf_hub_download", filename=CHECKSUMS, revision=head)))
        return {path for path in present if path in listed or path.startswith("data/")}

    def commit(self, branch: str, head: str, sent: Payload, stale: set[str]) -> str:
        """Make the commit; return its hash. A commit whose response was lost is recognised and not repeated."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def attempt() -> str:
            now = str(self.api.repo_info(self.name, repo_type="dataset", revision=branch).sha)
            if now != head and not _differences(self.listing(now), sent):
                return now
            deleted = [CommitOperationDelete(path) for path in sorted(stale - set(sent.files))]
            added = [CommitOperationAdd(path, source) for path, source in sent.files.items()]
            target: dict[str, Any] = {"repo_type": "dataset", "revision": branch, "parent_commit": head}
            message = f"Publish {sent.rows:,} rows"
            return str(self.api.create_commit(self.name, [*deleted, *added], commit_message=message, **target).oid)

        return str(self._repeated(attempt))

    def read_back(self, commit: str, sent: Payload) -> None:
        """Compare every file's hash, and the row count in every Parquet footer, with what was sent."""
        from huggingface_hub import HfFileSystem

        wrong = _differences(self.listing(commit), sent)
        if wrong:
            raise Unfinished(f"{wrong[0]} on the Hub is not what was sent: run the same command again")
        files = HfFileSystem(endpoint=self.api.endpoint)

        def row_count(path: str) -> int:
            with files.open(f"datasets/{self.name}@{commit}/{path}", block_size=1 << 16) as file:
                return int(pq.read_metadata(file).num_rows)

        for path, entry in sent.checksums.items():
            if "rows" in entry:
                rows = self._repeated(partial(row_count, path))
                assert rows == entry["rows"], f"{path} has {rows} rows on the Hub, {entry['rows']} were sent"

    def purge_history(self, branch: str) -> str:
        """Delete all earlier commits and the large files that only they hold; return a sentence about it."""
        stored = self.call("list_lfs_files")  # while commits still name them
        self.call("super_squash_history", branch=branch)
        kept = {entry.lfs.sha256 for entry in self.listing(branch).values() if entry.lfs}
        old = [file for file in stored if file.oid not in kept]
        self.call("permanently_delete_lfs_files", lfs_files=old)
        return f"the history is cleared; {len(old)} files of earlier versions were deleted permanently"

    def _require_single_branch(self, branch: str) -> None:
        refs = self.call("list_repo_refs")
        others = [ref.name for ref in [*refs.branches, *refs.tags] if ref.name != branch]
        if others:
            raise UserError(
                f"--purge-history: {', '.join(others)} of {self.name} may hold older files too: delete these first"
            )

    def _repeated(self, action: Callable[[], Any]) -> Any:
        """Return the result of an action on the Hub; its errors are described at `call`."""
        import httpx2
        from huggingface_hub import errors

        missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError)
        for pause in (*_PAUSES, None):
            try:
                return action()
            except missing:
                raise
            except (errors.HfHubHTTPError, httpx2.TransportError, RuntimeError) as error:
                # the library wraps errors of uploads in a RuntimeError
                cause = error.__cause__ if isinstance(error, RuntimeError) else error
                if not isinstance(cause, errors.HfHubHTTPError | httpx2.TransportError):
                    raise
                status = _status(cause)
                transient = status == 0 or status in _BUSY or status >= 500 or (cause is not error and status == 400)
                if pause is None or not transient:
                    self._refuse(cause, status)
                time.sleep(pause or 0)
        raise AssertionError("unreachable")

    def _refuse(self, cause: Exception, status: int) -> None:
        """Raise an error of the Hub as one sentence."""
        if status == 412:
            raise Unfinished(f"somebody else changed {self.name} meanwhile: check it, then run the same command again")
        if status == 403:
            raise UserError(f"the token may not write to {self.name}: use one with write access, or another USER")
        if not status:
            raise Unfinished(f"the Hub cannot be reached ({type(cause).__name__}): {_AGAIN}")
        with hub_errors(HubName(self.name), "--to"):
            raise cause


def _differences(present: dict[str, Any], sent: Payload) -> list[str]:
    """Return the paths of our files and of data/ whose content on the Hub is not what was sent."""
    from huggingface_hub.utils.sha import git_hash

    wrong = [path for path in present if path.startswith("data/") and path not in sent.files]
    for path, source in sent.files.items():
        entry = present.get(path)
        if entry is None:
            wrong.append(path)
        elif entry.lfs:
            wrong += [path] if entry.lfs.sha256 != sent.checksums[path]["sha256"] else []
        else:
            data = source if isinstance(source, bytes) else source.read_bytes()
            wrong += [path] if entry.blob_id != git_hash(data) else []
    return wrong


def _about_history(before: dict[str, Any], sent: Payload) -> str:
    hashes = {entry["sha256"] for entry in sent.checksums.values()}
    old = [path for path, entry in before.items() if entry.lfs and entry.lfs.sha256 not in hashes]
    remark = f"the history still holds {len(old)} files of the previous version: --purge-history deletes them"
    return remark if old else ""


def _status(error: Any) -> int:
    response = getattr(error, "response", None)
    return 0 if response is None else int(response.status_code)
