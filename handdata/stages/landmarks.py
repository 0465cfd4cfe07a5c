"""The stage `landmarks`: the hands in the stored images, and which of them makes the gesture."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, ClassVar

from handdata import assets
from handdata.machine import cores
from handdata.recipe import LandmarkOptions
from handdata.stages import Columns
from handdata.vision.landmarks import ASSET, HandFinder, decode, gesture_hand


class HandLandmarks:
    """Find the hands in the stored images."""

    version: ClassVar = 1
    inputs: ClassVar = ("image", "gesture", "bboxes", "labels")
    final_reasons: ClassVar = frozenset({"image-corrupt", "hand-not-found"})
    threads: ClassVar = True

    @staticmethod
    def fingerprint(options: LandmarkOptions) -> Any:
        deciding = {name: value for name, value in asdict(options).items() if name != "threads"}
        asset = assets.assets()[ASSET]
        return {**deciding, "model": asset.file, "sha256": asset.sha256}

    @staticmethod
    def packages(options: LandmarkOptions) -> tuple[str, ...]:
        return ("mediapipe", "opencv-contrib-python", "pillow", "numpy")

    def __init__(self, options: LandmarkOptions) -> None:
        self._options = options
        count = options.threads or cores()
        settings = (options.hands, options.detection, options.presence, options.min_side)
        self._finders = [HandFinder(*settings) for _ in range(count)]

    def __call__(self, columns: Columns) -> Columns:
        """Take `image` (bytes or None), `gesture`, `bboxes`, `labels`; return the landmark columns and `reason`.

        Each thread has its own finder and takes every n-th row; MediaPipe releases the interpreter while it works.
        """
        rows = list(zip(*(columns[name] for name in self.inputs), strict=True))
        count = len(self._finders)
        outputs: list[dict[str, Any]] = [{} for _ in rows]

        def detect(number: int) -> None:
            for place in range(number, len(rows), count):
                outputs[place] = self._row(self._finders[number], *rows[place])

        with ThreadPoolExecutor(count) as pool:
            list(pool.map(detect, range(count)))
        names = ("hand_landmarks", "handedness", "handedness_score", "gesture_hand", "landmarks_in_box", "reason")
        return {name: [row.get(name) for row in outputs] for name in names}

    def close(self) -> None:
        for finder in self._finders:
            finder.close()

    def _row(
        self, finder: HandFinder, data: bytes | None, gesture: str, bboxes: list[list[float]], labels: list[str]
    ) -> dict[str, Any]:
        if data is None:
            return {"reason": "image-missing"}
        image = decode(data)
        if image is None:
            return {"reason": "image-corrupt"}
        hands = finder.find(image)
        if not len(hands.landmarks) and self._options.no_hand == "replace":
            return {"reason": "hand-not-found"}
        chosen, inside = gesture_hand(hands.landmarks, bboxes, labels, gesture)
        return {
            "hand_landmarks": hands.landmarks.tolist(),
            "handedness": list(hands.handedness),
            "handedness_score": list(hands.scores),
            "gesture_hand": chosen,
            "landmarks_in_box": inside,
        }
