"""The stage `caption`: descriptions of the stored images by an image captioner."""

from typing import Any, ClassVar

from handdata.recipe import CaptionOptions
from handdata.stages import Columns
from handdata.texts.captioners.captioner import captioner_class, open_captioner
from handdata.vision.landmarks import decode


class Captions:
    """Describe the stored images."""

    version: ClassVar = 1
    inputs: ClassVar = ("image",)
    final_reasons: ClassVar = frozenset({"image-corrupt", "caption-empty"})

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with a branch on the Hub resolved to its commit; those of other models unchanged."""
        pinned: CaptionOptions = captioner_class(options).at_commit(options)
        return pinned

    @staticmethod
    def fingerprint(options: CaptionOptions) -> Any:
        return captioner_class(options).fingerprint(options)

    def __init__(self, options: CaptionOptions) -> None:
        self._captioner = open_captioner(options)

    def __call__(self, columns: Columns) -> Columns:
        """Take `image` (bytes or None); return `caption` and `reason`."""
        images = [None if data is None else decode(data) for data in columns["image"]]
        described = iter(self._captioner.describe([image for image in images if image is not None]))
        captions = [next(described) if image is not None else None for image in images]
        rows = zip(columns["image"], images, captions, strict=True)
        return {"caption": [caption or None for caption in captions], "reason": [_reason(*row) for row in rows]}

    def close(self) -> None:
        self._captioner.close()


def _reason(data: bytes | None, image: Any, caption: str | None) -> str | None:
    if data is None:
        return "image-missing"
    if image is None:
        return "image-corrupt"
    if caption is None:
        return "caption-timeout"
    return None if caption else "caption-empty"
