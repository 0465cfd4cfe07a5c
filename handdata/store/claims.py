"""Locks in a store of objects that has none: a claim is an object, and whoever sees another's claim takes its own back.

A process puts its claim, and lists all claims. Two processes cannot both miss the other's claim, since S3 and Google
Cloud Storage list every object that was put before; both may see the other's, and then both withdraw. A claim is
renewed while it is held. One that is older than LEASE by the store's clock, or whose process has ended on this
machine, is removed by the next process.
"""

import hashlib
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handdata.errors import Unfinished, UserError
from handdata.store.objects import Objects

LEASE = 60.0  # seconds
_RENEWAL = 15.0  # seconds between two puts of a claim that is held
_PAUSE = (0.1, 1.0)  # seconds before a waiting process looks again, drawn between these
_FOLDER = "locks"


@contextmanager
def claimed(objects: Objects, claim: str, conflicts: Callable[[str], bool], busy: str | None) -> Iterator[None]:
    """Hold a claim inside the block; `conflicts` returns whether another claim excludes it.

    While one does, `UserError` with the message `busy` is raised, in which `{process}` is replaced; without a message,
    wait. Raises `Unfinished` if this process stood still, so that others may have taken the claim for abandoned.
    """
    name, clock = f"{_FOLDER}/{claim}/{_owner()}", None
    while True:
        # a waiting process puts no claim while it sees others', which would keep these from theirs
        if clock is None or not _rivals(objects, name, conflicts, time.time() + clock):
            objects.put(name, b"held")
            try:
                clock = objects.listed(_FOLDER)[name].mtime.timestamp() - time.time()
                rivals = _rivals(objects, name, conflicts, time.time() + clock)
            except BaseException:
                objects.remove(name)
                raise
            if not rivals:
                break
            objects.remove(name)
            if busy is not None:
                _, process, _, host = rivals[0].split("-", 3)
                raise UserError(busy.replace("{process}", f"process {process} on {host}"))
        time.sleep(random.uniform(*_PAUSE))
    ended, lapsed = threading.Event(), threading.Event()
    renewal = threading.Thread(target=_renew, args=(objects, name, ended, lapsed), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        objects.remove(name)
    if lapsed.is_set():
        raise Unfinished(
            f"{objects.url}: this process stood still or could not reach the store for more than {LEASE:.0f} s, so"
            " another one may have done the same work: run it again"
        )


def _renew(objects: Objects, name: str, ended: threading.Event, lapsed: threading.Event) -> None:
    last = time.time()
    while not ended.wait(_RENEWAL):
        if time.time() - last > LEASE:
            lapsed.set()
            return
        with suppress(Unfinished, UserError):  # tried again until the claim has lapsed
            objects.put(name, b"held")
            last = time.time()


def _rivals(objects: Objects, own: str, conflicts: Callable[[str], bool], now: float) -> list[str]:
    """Return the owners of other claims that exclude this one; abandoned claims are removed."""
    rivals = []
    for name, info in objects.listed(_FOLDER).items():
        claim, _, owner = name.removeprefix(f"{_FOLDER}/").rpartition("/")
        if name == own or not conflicts(claim) or owner.count("-") < 3:
            continue
        if now - info.mtime.timestamp() > LEASE or _has_ended(owner):
            objects.remove(name)
        else:
            rivals.append(owner)
    return rivals


def _owner() -> str:
    """Return a name for a claim of this process: machine, process, a random number, host."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:60]
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}-{host}"


def _machine() -> str:
    """Return a name of the set of processes that this one can see: this start of the machine, or this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _has_ended(owner: str) -> bool:
    machine, process, *_ = owner.split("-")
    if machine != _machine() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
