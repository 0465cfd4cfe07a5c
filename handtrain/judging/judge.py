"""Judge the hands in folders of images of any program, without real images: rank the folders, write a page."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from handdata.errors import UserError
from handdata.files import require_writable_folder, write_json, write_text
from handdata.limits.numbers import RANGES
from handdata.machine import cores, map_unordered
from handdata.progress import bar
from handdata.vision.landmarks import HandFinder
from handdata.vision.pixels import MAX_PIXELS, UnreadableImage, open_image, upright
from handtrain.data.image_folder import is_black, is_one_colour
from handtrain.evaluation.hands import Hand
from handtrain.judging.judgement import AnatomyMethod, Judgement
from handtrain.judging.measures import Entry, Measure, chosen, difference, summary
from handtrain.judging.others import make_judges, scored
from handtrain.judging.page import page
from handtrain.judging.pictures import Folder, Picture, open_folder
from handtrain.judging.reference import gestures_named
from handtrain.judging.rows import JudgedHand, JudgedImage
from handtrain.judging.search import find_hands, open_finder

_PER_WORKER = 8  # with fewer images the start of a process does not pay off


def default_anatomy() -> AnatomyMethod:
    """Return the judge of anatomy that the package ships."""
    from handtrain.judging import anatomy

    return AnatomyMethod(anatomy.AnatomyJudge, anatomy.STATUS, anatomy.CAVEAT)


def judge(
    folders: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    json: str | Path | None = None,
    csv: str | Path | None = None,
    workers: int = 0,
    crops: int = 12,
    anatomy: bool | AnatomyMethod = True,
    judges: Sequence[str] = (),
) -> Judgement:
    """Judge the hands of all images below the folders; write the page `out`, and `json` and `csv` where given.

    `workers` is the number of processes, 0 for one per core; results do not depend on it. The page shows the `crops`
    worst and best hands of each folder. Without `anatomy`, p_wrong and the values that come with it are not computed.
    `judges` are other judges (`raters.judges`), NAME or NAME:KEY=VALUE,KEY=VALUE, which see a crop around every hand.
    Raises `UserError` for a folder without an image, and where no image of any folder can be read.
    """
    _check(out, workers, crops)
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    opened = [open_folder(folder) for folder in given]
    if not opened:
        raise UserError("name at least one folder of images")
    names = [folder.name for folder in opened]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is named twice: name each folder once")
    method = default_anatomy() if anatomy is True else anatomy or None
    made = make_judges(judges)
    for file, option in ((out, "--out"), (json, "--json"), (csv, "--csv")):
        if file is not None:
            require_writable_folder(Path(file).parent, option)
    images = _judge_all(opened, method, workers or cores())
    for name, other in made.items():
        images = scored(images, opened, name, other)
    judgement = _summarised(opened, images, method, list(made))
    if out is not None:
        write_text(Path(out), page(judgement, crops))
    if json is not None:
        write_json(Path(json), judgement.record())
    if csv is not None:
        write_text(Path(csv), judgement.csv())
    return judgement


def _check(out: str | Path | None, workers: int, crops: int) -> None:
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html: the page is one HTML file")
    for name, number in (("workers", workers), ("crops", crops)):
        fault = RANGES[f"Judge.{name}"].fault(number)
        if fault:
            raise UserError(f"--{name} {number} {fault}")


def _judge_all(folders: Sequence[Folder], method: AnatomyMethod | None, workers: int) -> list[JudgedImage]:
    """Return all images, judged, by folder and name. Raises `UserError` if none can be read."""
    tasks = [(number, picture) for number, folder in enumerate(folders) for picture in folder.pictures]
    workers = min(workers, -(-len(tasks) // _PER_WORKER))
    with bar(total=len(tasks), desc="judge", unit="image") as shown, ExitStack() as stack:
        if workers > 1:
            # networks on the CPU would start a thread per core in every process
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            judged = map_unordered(_in_worker, tasks, workers, "judge", _start, (method,))
        else:
            judged = map(stack.enter_context(Judge(method)), tasks)  # type: ignore[assignment]
        images = []
        for image in judged:
            images.append(image)
            shown.update()
    images.sort(key=lambda image: (image.folder, image.name))
    if all(image.fault is not None for image in images):
        raise UserError(
            f"{folders[0].name}: none of the {len(images)} images can be read, the first is {images[0].name} "
            f"({images[0].fault})"
        )
    return images


class Judge(ExitStack):
    """The models of one process; a call judges one image."""

    def __init__(self, method: AnatomyMethod | None) -> None:
        super().__init__()
        self._finder: HandFinder = self.enter_context(open_finder())
        self._anatomy = method.open() if method else None
        self.callback(getattr(self._anatomy, "close", lambda: None))

    def __call__(self, task: tuple[int, Picture]) -> JudgedImage:
        folder, picture = task
        make = partial(JudgedImage, folder, picture.name, picture.prompt)
        try:
            with open_image(picture.path) as opened:
                image = upright(opened)
        except (UnreadableImage, OSError) as error:
            large = isinstance(error, UnreadableImage) and error.reason == "too-many-pixels"
            return make(fault=f"it has more than {MAX_PIXELS:,} pixels" if large else str(error))
        black = is_black(image)
        one_colour = not black and is_one_colour(image)
        judged = [] if black or one_colour else self.hands(image)
        return make(None, image.width, image.height, black, one_colour, judged)

    def hands(self, image: Image.Image) -> list[JudgedHand]:
        """Return the judged hands of an upright RGB image."""
        pixels = np.asarray(image)
        hands = find_hands(self._finder, pixels)
        return [self._hand(pixels, *pair) for pair in zip(hands, gestures_named(hands), strict=True)]

    def _hand(self, pixels: np.ndarray, hand: Hand, gesture: str) -> JudgedHand:
        if self._anatomy is None:
            return JudgedHand(hand, gesture)
        found = self._anatomy.judge(pixels, hand.points())
        return JudgedHand(hand, gesture, round(float(found.p_wrong), 4), found.fingers, found.flaw or None)


_of_process: Judge  # in a worker process


def _start(method: AnatomyMethod | None) -> None:
    from multiprocessing.util import Finalize

    global _of_process
    _of_process = Judge(method)
    Finalize(None, _of_process.close, exitpriority=1)  # before the threads end, which MediaPipe closes its graph with


def _in_worker(task: tuple[int, Picture]) -> JudgedImage:
    return _of_process(task)


def _summarised(
    folders: list[Folder], images: list[JudgedImage], method: AnatomyMethod | None, judges: list[str]
) -> Judgement:
    """Return the judgement, with the best folder first, and the comparison of every two folders."""
    measures = chosen(method is not None, judges)
    by_folder = [[image for image in images if image.folder == number] for number in range(len(folders))]
    summaries = [
        {"folder": folder.name, **summary(of_folder, measures), "other_files": folder.others, "notes": folder.notes}
        for folder, of_folder in zip(folders, by_folder, strict=True)
    ]
    summaries.sort(key=partial(_rank, measure=measures[0]))
    return Judgement(folders, images, method, judges, summaries, list(_pairs(folders, by_folder, measures)))


def _pairs(
    folders: Sequence[Folder], images: Sequence[Sequence[JudgedImage]], measures: Sequence[Measure]
) -> Iterator[Entry]:
    for first in range(len(folders)):
        for second in range(first + 1, len(folders)):
            entry = difference(images[first], images[second], measures)
            if entry:
                yield {"first": folders[first].name, "second": folders[second].name, **entry}


def _rank(entry: Entry, measure: Measure) -> float:
    """Return a number by which the best folder is the first; one without a readable image is the last."""
    value = entry["measures"][measure.name]["value"]
    return float("inf") if value is None else value if measure.lower_is_better else -value
