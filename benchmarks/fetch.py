"""Measure fetching against remotezip on a local server, and the scan of a central directory of HaGRID's size.

    python -m benchmarks.fetch [--members 4400] [--wanted 400] [--latency 0.05] [--folder DIR]

The server runs in its own process and waits 50 ms before every answer. The archive is zip64, its members of 110 kB
begin beyond 5 GiB (a sparse file). Both clients check the CRC; ours also decodes every pixel, removes the metadata and
stores the image with its receipt. Results are lines on stdout.
"""

import argparse
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import hagrid

ENTRIES = 1_086_158  # hagridv2_512.zip
WANTED = 13_800  # six gestures with spares, without validation


def main() -> None:
    """Run all measurements in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, default=4400)
    parser.add_argument("--wanted", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument(
        "--runs", type=int, default=3, help="number of repetitions of the fetch; the directory is scanned once"
    )
    parser.add_argument("--folder", type=Path, help="folder of the archive (5.9 GB, of which 0.5 GB on the disk)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        folder = Path(name)
        fetch_against_remotezip(folder, flags.members, flags.wanted, flags.latency, flags.runs)
        scan(folder)


def fetch_against_remotezip(folder: Path, members: int, wanted: int, latency: float, runs: int) -> None:
    """Fetch the same random members with both clients and print times, bytes and requests."""
    (folder / "served").mkdir()
    world = hagrid.big_archive(folder / "served" / "images.zip", members)
    chosen = sorted(random.Random(0).sample(sorted(world.records["train", "call"]), wanted))
    world.records["train", "call"] = {name: world.records["train", "call"][name] for name in chosen}
    world.write_annotations(folder / "annotations.zip")
    command = [sys.executable, "-m", "tests.range_server", str(folder / "served"), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip() + "images.zip"
            for run in range(runs):
                _compare(folder / str(run), folder / "annotations.zip", url, chosen)
        finally:
            server.kill()


def _compare(folder: Path, annotations: Path, url: str, chosen: list[str]) -> None:
    folder.mkdir()
    ours, theirs = _ours(folder, annotations, url, len(chosen)), _remotezip(url, chosen)
    share = ours["bytes"] / (len(chosen) * 110_000)
    print(
        f"ours       {ours['index']:6.2f} s index, {ours['members']:6.2f} s members, CPU {ours['cpu']:5.2f} s,"
        f" {ours['requests']} requests, {share:.4f} times the members' bytes"
    )
    print(f"remotezip  {theirs['index']:6.2f} s index, {theirs['members']:6.2f} s members, CPU {theirs['cpu']:5.2f} s")
    both = (theirs["index"] + theirs["members"]) / (ours["index"] + ours["members"])
    print(f"ratio      {theirs['members'] / ours['members']:6.1f} members, {both:6.1f} with the index", flush=True)


def scan(folder: Path) -> None:
    """Scan a directory of HaGRID's size for the wanted members in a new process; print time and peak memory."""
    path = folder / "directory"
    names = write_directory(path, ENTRIES)
    for wanted in (WANTED, 240_000):
        chosen = random.Random(0).sample(range(ENTRIES), wanted)
        (folder / "wanted").write_bytes(b"\n".join(names[36 * at : 36 * at + 36] for at in chosen))
        out = subprocess.run(
            [sys.executable, "-m", "benchmarks.fetch", str(path)],
            capture_output=True,
            check=True,
            env={**os.environ, "SCAN": str(folder / "wanted")},
            text=True,
        )
        result: dict[str, Any] = json.loads(out.stdout)
        assert result["found"] == wanted
        print(
            f"scan       {result['seconds']:7.2f} s, peak {result['peak'] / 1e6:.0f} MB for {wanted:,} of {ENTRIES:,}"
            f" entries ({path.stat().st_size / 1e6:.0f} MB)"
        )


def _scan_one(path: Path, wanted: Path) -> None:
    import mmap

    from handdata.sources import archive

    keys = {name: row for row, name in enumerate(wanted.read_bytes().split(b"\n"))}
    began = time.perf_counter()
    with path.open("rb") as file:
        directory = archive.Directory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    entries = [archive.entry_at(directory, position) for _, position, _ in archive.find(directory, keys)]
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "found": len(entries)}))


def _ours(folder: Path, annotations: Path, url: str, wanted: int) -> dict[str, Any]:
    os.environ["HAND1000_CACHE"] = str(folder / "cache")
    import httpx2  # noqa: F401 - remotezip's imports are not timed either
    from PIL import Image  # noqa: F401

    from handdata.recipe import load
    from handdata.sources.http import Client
    from handdata.stages import Execution, fetch, select

    source = {"annotations": str(annotations), "images": url}
    chosen = {"gestures": ["call"], "train": wanted, "validation": 0, "test": 0, "spare": 0.0}
    (folder / "recipe.toml").write_text(hagrid.recipe_text(source=source, select=chosen))
    clients: list[Client] = []
    make = Client.__init__

    def remembered(client: Client, *arguments: Any) -> None:
        make(client, *arguments)
        clients.append(client)

    Client.__init__ = remembered  # type: ignore[method-assign, assignment]
    out = folder / "build"
    out.mkdir()
    recipe, times = load(folder / "recipe.toml"), [time.perf_counter()]
    cpu = time.process_time()
    for stage in (select.run, fetch.run):
        report = stage(out, recipe, Execution(progress=False))
        times.append(time.perf_counter())
        assert report.rows == wanted and not report.failed
    cpu = time.process_time() - cpu
    Client.__init__ = make  # type: ignore[method-assign]
    read = {name: sum(getattr(client, name) for client in clients) for name in ("requests", "bytes")}
    return {"index": times[1] - times[0], "members": times[2] - times[1], "cpu": cpu, **read}


def _remotezip(url: str, chosen: list[str]) -> dict[str, float]:
    import remotezip

    times, cpu = [time.perf_counter()], time.process_time()
    with remotezip.RemoteZip(url) as archive:
        times.append(time.perf_counter())
        for name in chosen:
            assert len(archive.read(f"HaGRIDv2_dataset_512/call/{name}.jpg")) == 110_000
    times.append(time.perf_counter())
    return {"index": times[1] - times[0], "members": times[2] - times[1], "cpu": time.process_time() - cpu}


def write_directory(path: Path, entries: int) -> bytes:
    """Write a central directory like hagridv2_512.zip's and return all image ids, 36 bytes each."""
    rng = random.Random(1)
    header = struct.Struct("<4sHHHHHHIIIHHHHHII")
    names = bytearray()
    with path.open("wb", buffering=1 << 20) as file:
        for number in range(entries):
            digits = f"{rng.getrandbits(128):032x}"
            name = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()
            names += name
            member = b"HaGRIDv2_dataset_512/middle_finger/" + name + b".jpg"
            offset = 110_000 * number
            extra = struct.pack("<HHQ", 1, 8, offset)
            fields = (b"PK\1\2", 45, 45, 0, 0, 0, 0, number, 110_000, 110_000, len(member), len(extra), 0, 0, 0, 0)
            file.write(header.pack(*fields, 0xFFFFFFFF) + member + extra)
    return bytes(names)


def write_archive_end(path: Path, entries: int) -> None:
    """Write a zip64 archive that has only its central directory: the members are a hole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        write_directory(Path(folder) / "directory", entries)
        directory = (Path(folder) / "directory").read_bytes()
    start = 110_000 * entries
    with path.open("wb") as file:
        file.truncate(start)
        file.seek(start)
        file.write(directory)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, len(directory), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


if __name__ == "__main__":
    if "SCAN" in os.environ:
        _scan_one(Path(sys.argv[1]), Path(os.environ["SCAN"]))
    else:
        main()
