"""Draw the mini world: a HaGRID in small, in HaGRIDv2's layout, with the truth known.

What comes out is `<gesture>.zip`, `annotations.zip` with v2-1M's records and their oddities, and `truth.jsonl`. Every
picture depends on (seed, split, gesture, its number) alone: the counts, the other gestures and the number of
workers change none of its bytes.
"""

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from handdata import gestures
from handdata.errors import UserError
from handdata.files import require_writable_folder
from handdata.machine import map_unordered
from handdata.recipe import RenderOptions
from handdata.rows.schema import HAGRID_SPLITS
from handdata.world.skeleton import GESTURES

if TYPE_CHECKING:
    from handdata.world.scene import Picture

VERSION = 2  # raised when the same options give other pictures

_DRAWING = ".drawing"  # folder of the pictures drawn so far; it goes when the archives are whole
_QUALITY = 92  # JPEG
_SAME = 0.04  # share of pictures in which both hands make the gesture
_PER_EXTRA = 20  # one more record without its picture, and one without the gesture, per so many
_BIGGEST = 2048
_PER_WORKER = 8  # fewer pictures do not pay for starting a process

Kind = Literal["whole", "absent", "idle"]


@dataclass(frozen=True)
class Task:
    """One record to make."""

    gesture: str
    split: str  # train, validation or test
    number: int  # within gesture and split; records beyond the count are extra
    kind: Kind  # whole: picture and record; absent: a record whose picture is missing; idle: no hand makes the gesture

    def entropy(self, options: RenderOptions) -> list[int]:
        split = list(HAGRID_SPLITS).index(self.split)
        kind = ("whole", "absent", "idle").index(self.kind)
        return [options.seed, split, GESTURES.index(self.gesture), self.number, kind, int(options.malformed)]


def draw(options: RenderOptions, folder: Path, workers: int = 1, progress: bool = True) -> dict[str, int]:
    """Draw the mini world into a folder; return the number of pictures per gesture.

    What is there and made with the same options is kept; after an interruption the same call continues. Raises
    `UserError` for options that cannot be drawn, `Unfinished` if a worker is killed.
    """
    check(options)
    require_writable_folder(folder, "--out")
    names = options.gestures or GESTURES
    todo = plan(options)
    if not _finished(options, folder):
        _start(options, folder)
        _draw_all(options, todo, folder / _DRAWING, workers, progress)
        _archive(options, todo, folder)
    drawn = [task.gesture for task in todo if task.kind != "absent"]
    return {name: drawn.count(name) for name in names}


def check(options: RenderOptions) -> None:
    """Raise `UserError` for what cannot be drawn."""
    gestures.require(options.gestures)
    for name in options.gestures:
        if name not in GESTURES:
            raise UserError(f"--gestures: '{name}' cannot be drawn yet; choose from {', '.join(GESTURES)}")
    counts = {name: getattr(options, name) for name in HAGRID_SPLITS}
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"--{name} is {count}: give 0 or more pictures per gesture")
    if not any(counts.values()):
        raise UserError("--train, --validation and --test are all 0: give at least one of them a count")
    if not 32 <= options.size <= _BIGGEST:
        raise UserError(f"--size is {options.size}: give 32 to {_BIGGEST} pixels")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}: give 0 or more")
    if not 0 <= options.second_hand <= 1:
        raise UserError(f"--second-hand is {options.second_hand}: give a share from 0 to 1")


def plan(options: RenderOptions) -> list[Task]:
    """Return the records to make, in the order of the archives."""
    tasks = []
    for gesture in dict.fromkeys(options.gestures or GESTURES):
        for split in HAGRID_SPLITS:
            count = getattr(options, split)
            tasks += [Task(gesture, split, number, "whole") for number in range(count)]
            if options.oddities:
                extra = range(-(-count // _PER_EXTRA))
                tasks += [Task(gesture, split, number, "absent") for number in extra]
                tasks += [Task(gesture, split, number, "idle") for number in extra]
    return tasks


def summary(options: RenderOptions) -> str:
    """Return in words what would be drawn."""
    drawn = [task for task in plan(options) if task.kind != "absent"]
    names = list(dict.fromkeys(task.gesture for task in drawn))
    megabytes = len(drawn) * 5100 * (options.size / 128) ** 1.45 / 1e6  # measured at 64, 128 and 256 px
    return f"{len(drawn):,} pictures of {len(names)} gestures at {options.size} px, about {megabytes:,.0f} MB"


def draw_task(task: Task, options: RenderOptions) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Draw one picture; return its JPEG, its annotation record and the truth about it."""
    import io

    from handdata.world.scene import draw_picture

    user, person = _person(task, options)
    rng = np.random.default_rng(task.entropy(options))
    dice = rng.random()
    second = "" if dice > options.second_hand else task.gesture if dice < _SAME * options.second_hand else "no_gesture"
    label = task.gesture
    if task.kind == "idle":
        label, second = "no_gesture", ""
    picture = draw_picture(person, label, second, options.size, rng, options.malformed and task.kind != "idle")
    buffer = io.BytesIO()
    picture.image.save(buffer, "JPEG", quality=_QUALITY)
    annotation = record(picture, user, rng, options.oddities)
    truth = {
        "image_id": image_id(task, options),
        "gesture": task.gesture,
        "split": HAGRID_SPLITS[task.split],
        "kind": task.kind,
        "user_id": user,
        "caption": picture.caption,
        **picture.attributes,
        "hands": picture.hands,
    }
    return buffer.getvalue(), annotation, truth


def image_id(task: Task, options: RenderOptions) -> str:
    """Return the picture's uuid, the name of its file without .jpg."""
    digest = hashlib.sha256(json.dumps(["picture", *task.entropy(options)]).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _person(task: Task, options: RenderOptions) -> tuple[str, Any]:
    """Return user_id and looks: every person makes each gesture once or twice, in one split."""
    from handdata.world.scene import draw_person

    entropy = [options.seed, list(HAGRID_SPLITS).index(task.split), task.number * 2 // 3]
    user = hashlib.sha256(json.dumps(["person", *entropy]).encode()).hexdigest()[:32]
    return user, draw_person(np.random.default_rng(entropy))


def record(picture: "Picture", user: str, rng: np.random.Generator, oddities: bool) -> dict[str, Any]:
    """Return v2-1M's record, here and there with the gaps that HaGRID's own have."""
    landmarks = [hand["joints_2d"] for hand in picture.hands]
    united: dict[str, Any] = {"united_bbox": None, "united_label": None}
    dice, variant = rng.random(2)
    if oddities:
        if dice < 0.04:
            landmarks[0] = []
        elif dice < 0.06:
            landmarks[0] = landmarks[0][:20]
        others: list[Any] = [[None], []]
        if variant < 0.2:
            united = dict.fromkeys(united, others[int(variant < 0.1)])
        elif variant < 0.25:
            united = {}
    return {
        "bboxes": [hand["box"] for hand in picture.hands],
        "labels": [hand["label"] for hand in picture.hands],
        **united,
        "user_id": user,
        "hand_landmarks": landmarks,
        "meta": {"age": [0.0], "gender": ["drawn"], "race": ["drawn"]},
    }


def _key(options: RenderOptions) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return {"version": VERSION, "options": table}


def _finished(options: RenderOptions, folder: Path) -> bool:
    path = folder / "render.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == _key(options)


def _start(options: RenderOptions, folder: Path) -> None:
    """Clear away what was drawn with other options; keep what was drawn with these.

    Raises `UserError` if archives lie there that were not drawn: they may be HaGRID's own.
    """
    stamp = folder / _DRAWING / "render.json"
    old = [folder / name for name in ("annotations.zip", "truth.jsonl", *(f"{gesture}.zip" for gesture in GESTURES))]
    old = [path for path in old if path.exists()]
    if old and not (folder / "render.json").exists() and not stamp.exists():
        raise UserError(f"--out {folder} holds {old[0].name}, which 'render' did not make: choose another folder")
    for path in (folder / "render.json", *old):
        path.unlink(missing_ok=True)
    key = {**_key(options)}
    for free in ("train", "validation", "test", "gestures", "deflated", "zip64"):  # do not change a picture
        key["options"].pop(free)
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == key:
        return
    shutil.rmtree(folder / _DRAWING, ignore_errors=True)
    stamp.parent.mkdir(parents=True)
    stamp.write_text(json.dumps(key), encoding="utf-8")


def _draw_all(options: RenderOptions, tasks: list[Task], folder: Path, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    todo = [task for task in tasks if not _stem(task, options, folder).with_suffix(".json").exists()]
    work = partial(_draw_into, options=options, folder=folder)
    with tqdm(
        total=len(tasks),
        initial=len(tasks) - len(todo),
        desc="render",
        unit="picture",
        disable=None if progress else True,
    ) as bar:
        workers = min(workers or os.cpu_count() or 1, -(-len(todo) // _PER_WORKER))
        for _ in map_unordered(work, todo, workers, "render") if workers > 1 else map(work, todo):
            bar.update()


def _stem(task: Task, options: RenderOptions, folder: Path) -> Path:
    return folder / task.gesture / image_id(task, options)


def _draw_into(task: Task, options: RenderOptions, folder: Path) -> None:
    jpeg, record, truth = draw_task(task, options)
    stem = _stem(task, options, folder)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".jpg").write_bytes(jpeg)
    partial_file = stem.with_suffix(".partial")
    partial_file.write_text(json.dumps({"record": record, "truth": truth}), encoding="utf-8")
    partial_file.replace(stem.with_suffix(".json"))  # appears last: then both files are whole


def _archive(options: RenderOptions, tasks: list[Task], folder: Path) -> None:
    """Put what was drawn into the archives, each whole or absent, then the file that says all is done."""
    drawing = folder / _DRAWING
    annotations: dict[str, dict[str, Any]] = {}
    truths = []
    for gesture in dict.fromkeys(task.gesture for task in tasks):
        members = {}
        for task in (task for task in tasks if task.gesture == gesture):
            stem = _stem(task, options, drawing)
            found = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            name = f"annotations/{HAGRID_SPLITS[task.split]}/{gesture}.json"
            annotations.setdefault(name, {})[stem.name] = found["record"]
            if task.kind != "absent":
                members[f"{gesture}/{stem.name}.jpg"] = stem.with_suffix(".jpg")
                truths.append(found["truth"])
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
    _write(folder / "truth.jsonl", "".join(json.dumps(truth) + "\n" for truth in truths))
    _write(folder / "render.json", json.dumps(_key(options), indent=1) + "\n")
    shutil.rmtree(drawing)


@contextmanager
def _archive_file(path: Path, zip64: bool) -> Iterator[zipfile.ZipFile]:
    partial_file = path.with_name(f".{path.name}.partial")
    limits = {name: getattr(zipfile, name) for name in ("ZIP64_LIMIT", "ZIP_FILECOUNT_LIMIT")}
    if zip64:  # zipfile writes zip64 structures above these limits: without them, to small archives too
        vars(zipfile).update(ZIP64_LIMIT=0, ZIP_FILECOUNT_LIMIT=0)
    try:
        with zipfile.ZipFile(partial_file, "w") as archive:
            yield archive
    finally:
        vars(zipfile).update(limits)
    partial_file.replace(path)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, deflated: bool) -> None:
    info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _write(path: Path, text: str) -> None:
    partial_file = path.with_name(f".{path.name}.partial")
    partial_file.write_text(text, encoding="utf-8")
    partial_file.replace(path)
