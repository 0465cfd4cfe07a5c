"""Hashes of large files are computed once, and again after any change of the file."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from handdata.files import sha256_of
from handtrain import hashes


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and has not changed for an hour."""
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SMALLEST", 4)
    monkeypatch.setattr(hashes, "_SETTLED", -1.0)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"12345678")
    return file


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []

    def reading(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(hashes, "sha256_of", reading)
    return read


def test_an_unchanged_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reads(monkeypatch)
    link = large.with_name("link")  # as in a snapshot of the Hub
    link.symlink_to(large)
    expected = hashlib.sha256(b"12345678").hexdigest()
    assert [hashes.known_sha256(path) for path in (large, large, link)] == [expected] * 3
    assert read == [large]


def test_a_change_of_equal_size_and_with_the_old_time_is_noticed(large: Path) -> None:
    before, modified = hashes.known_sha256(large), large.stat().st_mtime_ns
    time.sleep(0.02)  # more than a tick of the clock of files
    large.write_bytes(b"12345679")
    os.utime(large, ns=(modified, modified))
    after = hashes.known_sha256(large)
    assert after == hashlib.sha256(b"12345679").hexdigest() != before


def test_another_file_of_that_name_is_noticed(large: Path) -> None:
    hashes.known_sha256(large)
    other = large.with_name("other")
    other.write_bytes(b"abcdefgh")
    other.replace(large)
    assert hashes.known_sha256(large) == hashlib.sha256(b"abcdefgh").hexdigest()


def test_a_file_that_has_just_changed_is_read_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_SETTLED", 3600.0)
    read = reads(monkeypatch)
    assert hashes.known_sha256(large) == hashes.known_sha256(large)
    assert len(read) == 2


def test_a_damaged_or_unwritable_cache_changes_nothing(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashes.known_sha256(large)
    (kept,) = (large.parent / "cache" / "hashes").iterdir()
    kept.write_text(kept.read_text().replace(expected, "0" * 64))
    assert hashes.known_sha256(large) == expected
    monkeypatch.setenv("HAND1000_CACHE", str(large))  # a file in place of the folder
    assert hashes.known_sha256(large) == expected


def test_a_small_file_is_not_kept(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SMALLEST", 9)
    hashes.known_sha256(large)
    assert not (large.parent / "cache").exists()
