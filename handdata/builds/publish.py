"""Publication of an assembled dataset on the Hub or in a folder: whole or not at all, and read back."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from handdata.builds import upload
from handdata.builds.folder import BuildFolder
from handdata.builds.payload import Payload, Published, payload
from handdata.dataset.checksums import CHECKSUMS, read_checksums
from handdata.errors import Unfinished, UserError
from handdata.files import require_only, require_room, require_writable_folder, sha256_of, whole_folder
from handdata.huggingface import parse_new


def publish(
    source: BuildFolder | Path,
    to: str | Path,
    private: bool = False,
    revision: str | None = None,
    purge_history: bool = False,
) -> Published:
    """Publish the dataset of a build, or of a folder with drawn pairs, to `hf:USER/NAME` or a folder.

    Raises `UserError` for a mistake, `Unfinished` if a server or a disk fails; then nothing is half-published, and
    the same call resumes.
    """
    if isinstance(source, BuildFolder):
        source.store.bring_all(source.own_rows)
    if isinstance(to, str) and to.startswith("hf:"):
        name = upload.repository_name(to)
        return upload.publish(payload(source, name), name, private, revision, purge_history)
    folder = parse_new(to, "--to")
    assert isinstance(folder, Path)
    for option, given in (("--private", private), ("--revision", revision), ("--purge-history", purge_history)):
        if given:
            raise UserError(f"{option} is for the Hub: {to} is a folder (a place on the Hub is written hf:USER/NAME)")
    return _to_folder(payload(source, folder.absolute().name), folder)


def _to_folder(sent: Payload, folder: Path) -> Published:
    """Write the files to a folder next to the target, read them back, and move the folder to its place."""
    require_writable_folder(folder.absolute().parent, "--to: the folder above")
    _require_ours(folder)
    require_room(folder.absolute().parent, sent.bytes, f"--to {folder}")
    with whole_folder(folder.absolute()) as partial:
        for path, source in sent.files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                (partial / path).write_bytes(source)
            else:
                shutil.copyfile(source, partial / path)
        _read_back(partial, sent)
    return Published(str(folder), None, sent.rows, len(sent.files), sent.bytes)


def _require_ours(folder: Path) -> None:
    """Refuse a folder with files that `publish` did not write."""
    listed = read_checksums(folder / CHECKSUMS) if (folder / CHECKSUMS).is_file() else {}
    require_only(folder, {*listed, *([CHECKSUMS] if listed else [])}, "--to")


def _read_back(folder: Path, sent: Payload) -> None:
    for path, entry in sent.checksums.items():
        if sha256_of(folder / path) != entry["sha256"]:
            raise Unfinished(f"{path} does not read back as it was written: the disk is failing")
        if "rows" in entry:
            rows = pq.read_metadata(folder / path).num_rows
            assert rows == entry["rows"], f"{path} has {rows} rows, {entry['rows']} were written"
