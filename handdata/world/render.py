"""Write the mini world: archives, annotations and truth in HaGRIDv2's layout.

The files are `<gesture>.zip`, `annotations.zip` with v2-1M's records and their oddities, and `truth.jsonl`. Their
bytes do not depend on the number of workers.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from handdata import gestures
from handdata.errors import UserError, require_known
from handdata.files import remove_partial, require_writable_folder, sha256_of, whole_file, write_json, write_jsonl
from handdata.machine import cores, map_unordered
from handdata.progress import bar
from handdata.readers import read_json
from handdata.recipe import RenderOptions
from handdata.rows.schema import HAGRID_SPLITS, SPLITS
from handdata.world.flaws import FLAWS
from handdata.world.gesture_file import drawn_names, gesture_files, texts
from handdata.world.skeleton import GESTURES
from handdata.world.tasks import Task, draw_task, image_id, plan

VERSION = 2  # raised when the same options give other pictures

_DRAWING = ".drawing"  # folder of the pictures drawn so far; removed when the archives are complete
_BIGGEST = 2048
_DRAWN_FROM = 1_704_067_200  # 2024-01-01, the date of the members, in seconds
_PER_WORKER = 8  # with fewer pictures the start of a process does not pay off


def draw(
    options: RenderOptions, folder: Path, workers: int = 1, progress: bool = True, own: bool = False
) -> dict[str, int]:
    """Draw the mini world into a folder; return the number of pictures per gesture.

    Pictures that were drawn with the same options are kept, so an interrupted call resumes; archives that were damaged
    are drawn again. `own`: the folder is a build's own, and whatever is in it may be replaced. Raises `UserError` for
    options that cannot be drawn, `Unfinished` if a worker is killed.
    """
    check(options)
    require_writable_folder(folder, "--out")
    tasks = plan(options)
    if not _finished(options, folder):
        _prepare(options, folder, own)
        _draw_all(options, tasks, folder / _DRAWING, workers, progress)
        _archive(options, tasks, folder)
    drawn = [task.gesture for task in tasks if task.kind != "absent"]
    return {name: drawn.count(name) for name in drawn_names(options)}


def check(options: RenderOptions) -> None:
    """Raise `UserError` for options that cannot be drawn."""
    known = (*GESTURES, *gesture_files(options))
    gestures.require(options.gestures, known)
    for name in options.gestures:
        if name not in known:
            raise UserError(f"--gestures: '{name}' cannot be drawn yet; choose from {', '.join(known)}")
    counts = {name: getattr(options, name) for name in SPLITS}
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"--{name} is {count}: give 0 or more pictures per gesture")
    if not any(counts.values()):
        raise UserError("--train, --validation and --test are all 0: give at least one of them a count")
    if not 32 <= options.size <= _BIGGEST:
        raise UserError(f"--size is {options.size}: give 32 to {_BIGGEST} pixels")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}: give 0 or more")
    for name, share in (("second-hand", options.second_hand), ("natural", options.natural)):
        if not 0 <= share <= 1:
            raise UserError(f"--{name} is {share}: give a share from 0 to 1")
    _check_flaws(options)


def _check_flaws(options: RenderOptions) -> None:
    for name in options.flaws:
        require_known(name, ["all", *FLAWS], "flaw", f"; known are all, {', '.join(FLAWS)}")
    if not 0 <= options.flaw_count <= len(FLAWS):
        raise UserError(f"--flaw-count is {options.flaw_count}: give 1 to {len(FLAWS)}, or 0 for one to three")
    if options.malformed and (options.flaws or options.pairs):
        raise UserError("--malformed and --flaws or --pairs exclude each other: leave out --malformed")


def summary(options: RenderOptions) -> str:
    """Return the number of pictures and their approximate size as a sentence."""
    drawn = [task for task in plan(options) if task.kind != "absent"]
    names = {task.gesture for task in drawn}
    megabytes = len(drawn) * 5100 * (options.size / 128) ** 1.45 / 1e6  # measured at 64, 128 and 256 px
    return f"{len(drawn):,} pictures of {len(names)} gestures at {options.size} px, about {megabytes:,.0f} MB"


def _key(options: RenderOptions) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    table["gesture_file"] = texts(options)  # what they say, wherever they are
    if not options.gesture_file:
        del table["gesture_file"]
    return {"version": VERSION, "options": table}


def _finished(options: RenderOptions, folder: Path) -> bool:
    """Return whether the archives were drawn with these options, and have the bytes that they had then."""
    stored = read_json(folder / "render.json") or {}
    files = stored.pop("files", None)
    if stored != _key(options) or not isinstance(files, dict):
        return False
    return all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in files.items())


def _prepare(options: RenderOptions, folder: Path, own: bool) -> None:
    """Remove pictures that were drawn with other options; keep those drawn with these.

    Raises `UserError` if the folder holds archives that were not drawn: they may be HaGRID's own.
    """
    stamp = folder / _DRAWING / "render.json"
    old = [
        folder / name
        for name in (
            "annotations.zip",
            "truth.jsonl",
            *(f"{gesture}.zip" for gesture in (*GESTURES, *drawn_names(options))),
        )
    ]
    old = [path for path in old if path.exists()]
    if old and not own and not (folder / "render.json").exists() and not stamp.exists():
        raise UserError(f"--out {folder} holds {old[0].name}, which 'render' did not make: choose another folder")
    remove_partial(folder)
    for path in (folder / "render.json", *old):
        if not path.is_dir():  # a folder is reported when the file is written
            path.unlink(missing_ok=True)
    key = _key(options)
    for free in ("train", "validation", "test", "gestures", "deflated", "zip64"):  # do not change a picture
        key["options"].pop(free)
    if read_json(stamp) != key:
        shutil.rmtree(folder / _DRAWING, ignore_errors=True)
        write_json(stamp, key)


def _draw_all(options: RenderOptions, tasks: list[Task], folder: Path, workers: int, progress: bool) -> None:
    missing = [task for task in tasks if not _is_drawn(_stem(task, options, folder))]
    work = partial(_draw_into, options=options, folder=folder)
    begun = len(tasks) - len(missing)
    with bar(total=len(tasks), initial=begun, desc="render", unit="picture", show=progress) as shown:
        workers = min(workers or cores(), -(-len(missing) // _PER_WORKER))
        for _ in map_unordered(work, missing, workers, "render") if workers > 1 else map(work, missing):
            shown.update()


def _stem(task: Task, options: RenderOptions, folder: Path) -> Path:
    return folder / task.gesture / image_id(task, options)


def _is_drawn(stem: Path) -> bool:
    return stem.with_suffix(".jpg").is_file() and read_json(stem.with_suffix(".json")) is not None


def _draw_into(task: Task, options: RenderOptions, folder: Path) -> None:
    jpeg, record, truth = draw_task(task, options)
    stem = _stem(task, options, folder)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".jpg").write_bytes(jpeg)
    with whole_file(stem.with_suffix(".json"), sync=False) as partial_file:  # appears last: then both are complete
        partial_file.write_text(json.dumps({"record": record, "truth": truth}), encoding="utf-8")


def _archive(options: RenderOptions, tasks: list[Task], folder: Path) -> None:
    """Put the pictures into the archives, each complete or absent, then write render.json, which marks the end."""
    drawing = folder / _DRAWING
    annotations: dict[str, dict[str, Any]] = {}
    truths = []
    for gesture in dict.fromkeys(task.gesture for task in tasks):
        members = {}
        for task in (task for task in tasks if task.gesture == gesture):
            stem = _stem(task, options, drawing)
            drawn = read_json(stem.with_suffix(".json"))
            name = f"annotations/{HAGRID_SPLITS[task.split]}/{gesture}.json"
            annotations.setdefault(name, {})[stem.name] = drawn["record"]
            if task.kind != "absent":
                members[f"{gesture}/{stem.name}.jpg"] = stem.with_suffix(".jpg")
                truths.append(drawn["truth"])
        with _archive_file(folder / f"{gesture}.zip", options.zip64) as archive:
            for member in sorted(members):
                _add(archive, member, members[member].read_bytes(), options.deflated)
    with _archive_file(folder / "annotations.zip", options.zip64) as archive:
        for name in sorted(annotations):
            if options.oddities:  # an older copy, as editors leave behind
                first = dict(list(annotations[name].items())[:1])
                junk = f"{Path(name).parent}/.ipynb_checkpoints/{Path(name).stem}-checkpoint.json"
                _add(archive, junk, json.dumps(first).encode(), True)
            _add(archive, name, json.dumps(annotations[name]).encode(), True)
    write_jsonl(folder / "truth.jsonl", truths)
    names = [
        "annotations.zip",
        "truth.jsonl",
        *(f"{gesture}.zip" for gesture in dict.fromkeys(t.gesture for t in tasks)),
    ]
    files = {name: sha256_of(folder / name) for name in names}
    for name, digest in files.items():  # archives that are drawn again count as the same ones: equal bytes, equal time
        os.utime(folder / name, (_DRAWN_FROM + int(digest[:6], 16),) * 2)
    write_json(folder / "render.json", {**_key(options), "files": files})
    shutil.rmtree(drawing)


@contextmanager
def _archive_file(path: Path, zip64: bool) -> Iterator[zipfile.ZipFile]:
    limits = {name: getattr(zipfile, name) for name in ("ZIP64_LIMIT", "ZIP_FILECOUNT_LIMIT")}
    if zip64:  # zipfile writes zip64 structures above these limits; with 0 for small archives too
        vars(zipfile).update(dict.fromkeys(limits, 0))
    try:
        with whole_file(path) as partial_file, zipfile.ZipFile(partial_file, "w") as archive:
            yield archive
    finally:
        vars(zipfile).update(limits)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, deflated: bool) -> None:
    info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)
