"""Files are whole or absent, whatever interrupts their writing; locks, partial files, disk space."""

import hashlib
import os
import re

import pytest

from handdata.errors import Unfinished, UserError
from handdata.files import (
    locked,
    read_sealed_json,
    remove_partial,
    require_room,
    require_writable_folder,
    sha256_by_path,
    whole_file,
    whole_folder,
    write_json,
    write_sealed_json,
)
from handdata.readers import read_json


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": "ü"})
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"a": "ü"}
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_folder_keeps_the_old_one_and_a_finished_one_replaces_it(tmp_path):
    folder = tmp_path / "data"
    with whole_folder(folder) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as partial:
        (partial / "new").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["old"]
    with whole_folder(folder) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_partial_files_and_folders_are_removed_and_no_others(tmp_path):
    (tmp_path / ".a.7.partial").write_text("half")
    (tmp_path / ".b.partial" / "inner").mkdir(parents=True)
    (tmp_path / "c.partial").write_text("a file of the user")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c.partial"]


def test_a_lock_names_the_process_that_holds_it_and_is_free_afterwards(tmp_path):
    path, busy = tmp_path / ".lock", "process {process} holds it"
    with locked(path, busy), pytest.raises(UserError, match=f"process {os.getpid()} holds it"), locked(path, busy):
        pass
    with locked(path, busy):
        pass


def test_hashes_are_by_relative_path_in_order(tmp_path):
    for name in ("b", "a/z", "a/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/c", "a/z", "b")}
    assert list(sha256_by_path(tmp_path).items()) == list(expected.items())


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=re.escape(f"--out {tmp_path / 'file' / 'x'} cannot be written (Not a dir")):
        require_writable_folder(tmp_path / "file" / "x", "--out")
    require_writable_folder(tmp_path / "made", "--out")
    assert (tmp_path / "made").is_dir() and not list((tmp_path / "made").iterdir())
    require_room(tmp_path, 1, "the archive")
    with pytest.raises(Unfinished, match=r"the archive needs 1,000,000,000\.00 GB in .* are free: make room"):
        require_room(tmp_path, 10**18, "the archive")


def test_a_sealed_file_counts_as_absent_if_it_was_changed_or_is_the_copy_of_another(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    write_sealed_json(one, {"rows": 3})
    assert read_sealed_json(one) == {"rows": 3}
    other.write_bytes(one.read_bytes())
    assert read_sealed_json(other) is None
    one.write_text(one.read_text().replace("3", "4", 1))
    assert read_sealed_json(one) is None
