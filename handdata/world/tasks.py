"""The pictures of the mini world: one task each, and from it the JPEG, its annotation record and the truth about it.

A picture depends on (seed, split, gesture, its number) alone, not on counts or other gestures.
"""

import hashlib
import io
import json
import uuid
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from handdata.recipe import RenderOptions
from handdata.rows.schema import HAGRID_SPLITS, SPLITS
from handdata.world.flaws import FLAWS, Wrong
from handdata.world.gesture_file import drawn_names, gesture_files
from handdata.world.scene import Person, Picture, draw_person, draw_picture
from handdata.world.skeleton import GESTURES

_QUALITY = 92  # JPEG
_SAME = 0.04  # share of pictures in which both hands make the gesture
_PER_EXTRA = 20  # one more record without its picture, and one without the gesture, per so many

Kind = Literal["whole", "absent", "idle", "wrong"]


@dataclass(frozen=True)
class Task:
    """One record of the mini world."""

    gesture: str
    split: str  # train, validation or test
    number: int  # within gesture and split
    kind: Kind  # whole: picture and record; absent: no picture; idle: no gesture; wrong: a whole one's flawed double

    def entropy(self, options: RenderOptions) -> list[int]:
        """Return the numbers that seed the picture's random generator."""
        split, kind = SPLITS.index(self.split), get_args(Kind).index(self.kind)
        return [options.seed, split, _number(self.gesture), self.number, kind, int(options.malformed)]


def _number(gesture: str) -> int:
    """Return a number for a gesture: its place among the mini world's, or one beyond them for that of a file."""
    if gesture in GESTURES:
        return GESTURES.index(gesture)
    return 1000 + int.from_bytes(hashlib.sha256(gesture.encode()).digest()[:4])


def plan(options: RenderOptions) -> list[Task]:
    """Return the tasks in the order of the archives."""
    tasks = []
    kinds: tuple[Kind, ...] = ("whole", "wrong") if options.pairs else ("whole",)
    for gesture in drawn_names(options):
        for split in SPLITS:
            count = getattr(options, split)
            tasks += [Task(gesture, split, number, kind) for number in range(count) for kind in kinds]
            if options.oddities:
                extra = range(-(-count // _PER_EXTRA))
                tasks += [Task(gesture, split, number, "absent") for number in extra]
                tasks += [Task(gesture, split, number, "idle") for number in extra]
    return tasks


def draw_task(task: Task, options: RenderOptions) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Draw one picture; return its JPEG, its annotation record and the truth about it."""
    user, person = _person(task, options)
    double = replace(task, kind="whole") if task.kind == "wrong" else task
    rng = np.random.default_rng(double.entropy(options))
    share = rng.random()
    second = (
        "" if share > options.second_hand else task.gesture if share < _SAME * options.second_hand else "no_gesture"
    )
    label = task.gesture
    if task.kind == "idle":
        label, second = "no_gesture", ""
    elif _chance(double, options, "natural") < options.natural:
        label = "natural"
    wrong = _wrong(task, options)
    malformed = options.malformed and task.kind != "idle" and wrong is None
    picture = draw_picture(person, label, second, options.size, rng, malformed, wrong, gesture_files(options))
    buffer = io.BytesIO()
    picture.image.save(buffer, "JPEG", quality=_QUALITY)
    truth = {
        "image_id": image_id(task, options),
        "gesture": task.gesture,
        "split": HAGRID_SPLITS[task.split],
        "kind": task.kind,
        "user_id": user,
        "caption": picture.caption,
        **picture.attributes,
        "hands": picture.hands,
        **({"pair": image_id(double, options)} if task.kind == "wrong" else {}),
    }
    return buffer.getvalue(), record(picture, user, rng, options.oddities), truth


def _wrong(task: Task, options: RenderOptions) -> Wrong | None:
    """Return the flaws of a picture's hand, None for a right hand."""
    if task.kind != "wrong" and (options.pairs or not options.flaws or task.kind == "idle"):
        return None
    names = tuple(FLAWS) if not options.flaws or "all" in options.flaws else options.flaws
    return Wrong(names, options.flaw_count, _generator(task, options, "flaws"))


def _chance(task: Task, options: RenderOptions, purpose: str) -> float:
    return float(_generator(task, options, purpose).random())


def _generator(task: Task, options: RenderOptions, purpose: str) -> np.random.Generator:
    """Return a generator of a picture's own for one purpose: other purposes' numbers stay as they are."""
    digest = hashlib.sha256(json.dumps([purpose, *task.entropy(options)]).encode()).digest()
    return np.random.default_rng(list(digest))


def image_id(task: Task, options: RenderOptions) -> str:
    """Return the picture's uuid, the name of its file without .jpg."""
    digest = hashlib.sha256(json.dumps(["picture", *task.entropy(options)]).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def record(picture: Picture, user: str, rng: np.random.Generator, oddities: bool) -> dict[str, Any]:
    """Return v2-1M's record; with `oddities` some records have the gaps that occur in HaGRID."""
    landmarks = [hand["joints_2d"] for hand in picture.hands]
    united: dict[str, Any] = {"united_bbox": None, "united_label": None}
    gap, variant = rng.random(2)
    if oddities:
        if gap < 0.04:
            landmarks[0] = []
        elif gap < 0.06:
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


def _person(task: Task, options: RenderOptions) -> tuple[str, Person]:
    """Return user_id and looks: every person makes each gesture once or twice, in one split."""
    entropy = [options.seed, SPLITS.index(task.split), task.number * 2 // 3]
    user = hashlib.sha256(json.dumps(["person", *entropy]).encode()).hexdigest()[:32]
    return user, draw_person(np.random.default_rng(entropy))
