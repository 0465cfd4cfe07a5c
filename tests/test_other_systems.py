"""Both packages on Windows and macOS, as far as Linux can show it: modules of Unix blocked, a stand-in for msvcrt."""

import os
import pkgutil
import signal
import subprocess
import sys
import types

import pytest
import torch

import handdata
import handtrain
from handdata import machine
from handdata.errors import UserError
from handdata.files import exclusive, locked, sync_folder
from handtrain.run.device import peak_mib

ONLY_UNIX = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")


def modules() -> list[str]:
    """The names of all modules of both packages; `__main__` is run, not imported."""
    packages = {"handdata": handdata, "handtrain": handtrain}
    found = [
        module.name for name, package in packages.items()
        for module in pkgutil.walk_packages(package.__path__, f"{name}.")
    ]  # fmt: skip
    return [name for name in found if not name.endswith("__main__")]


REFUSE = f"""
import builtins, importlib
normal = builtins.__import__

def refuse(name, globals=None, *rest, **more):
    if name in {ONLY_UNIX!r} and (globals or {{}}).get("__name__", "").split(".")[0] in ("handdata", "handtrain"):
        raise ModuleNotFoundError(name + " is missing")
    return normal(name, globals, *rest, **more)

builtins.__import__ = refuse
"""


@pytest.mark.slow
def test_every_module_is_imported_without_the_modules_of_unix():
    program = REFUSE + f"for name in {modules()!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(modules()) > 200


@pytest.fixture
def windows(monkeypatch):
    """Windows' way to lock: one byte of an open file, at its position. Two files of a process exclude each other."""
    held: dict[tuple[int, int], int] = {}  # (inode, position) -> descriptor

    def locking(descriptor: int, mode: int, count: int) -> None:

        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        if held.get(place, descriptor) != descriptor:
            raise PermissionError(13, "Permission denied")
        held[place] = descriptor

    stand_in = types.ModuleType("msvcrt")
    stand_in.locking, stand_in.LK_NBLCK = locking, 2
    monkeypatch.setitem(sys.modules, "msvcrt", stand_in)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    return held


def test_a_lock_on_windows_excludes_others_and_leaves_the_file_readable(windows, tmp_path):
    file = tmp_path / "lock"
    with locked(file, "in use by process {process}"):
        assert file.read_text().isdigit()
        ((_, position),) = windows
        assert position >= 2**30, "a locked byte of the text could not be read by others"
        with pytest.raises(UserError, match=r"^in use by process \d+$"), locked(file, "in use by process {process}"):
            pass
    windows.clear()  # closing a file frees its locks
    with exclusive(file):
        assert windows


def test_waiting_for_a_lock_on_windows_ends_when_it_is_free(windows, tmp_path, monkeypatch):
    file, naps = tmp_path / "lock", []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        windows.clear()

    monkeypatch.setattr("handdata.files.time.sleep", nap)
    with locked(file, "busy"), exclusive(file):
        assert len(naps) == 1


def test_windows_has_no_list_of_a_folder_to_write_and_no_signal_mask(monkeypatch, tmp_path):
    with monkeypatch.context() as there:
        there.setattr("handdata.files.sys.platform", "win32")
        there.setattr("handdata.files.os.open", lambda *_: pytest.fail("a folder cannot be opened on Windows"))
        sync_folder(tmp_path)
    without = {name: value for name, value in vars(signal).items() if name != "pthread_sigmask"}
    monkeypatch.setattr(machine, "signal", types.SimpleNamespace(**without))
    assert sorted(machine.map_unordered(abs, [-1, -2], 2, "numbers")) == [1, 2]


def test_peak_memory_is_0_where_the_system_does_not_tell_it(monkeypatch):
    assert peak_mib(torch.device("cpu")) > 10
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_mib(torch.device("cpu")) == 0


def test_peak_memory_of_a_mac_is_in_bytes(monkeypatch):
    here = peak_mib(torch.device("cpu"))
    monkeypatch.setattr("handtrain.run.device.sys.platform", "darwin")
    assert peak_mib(torch.device("cpu")) == pytest.approx(here / 1024, rel=0.2)


def test_auto_is_the_gpu_of_a_mac(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.zeros", lambda *_, device: None)
    assert machine.choose_device("auto") == torch.device("mps")
    assert machine.choose_device("cpu") == torch.device("cpu")
