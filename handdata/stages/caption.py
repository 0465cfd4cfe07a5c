"""The stage `caption`: descriptions of the stored images by an image captioner."""

from dataclasses import replace
from typing import Any, ClassVar

from handdata.machine import gpu_works
from handdata.recipe import CaptionOptions
from handdata.stages import Columns
from handdata.texts.captioners.captioner import captioner_class, open_captioner
from handdata.texts.captioners.local import arithmetic
from handdata.vision.landmarks import decode


class Captions:
    """Describe the stored images."""

    version: ClassVar = 1
    inputs: ClassVar = ("image",)
    final_reasons: ClassVar = frozenset({"image-corrupt", "caption-empty"})
    threads: ClassVar = True

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with a branch on the Hub resolved to its commit; those of other models unchanged."""
        pinned: CaptionOptions = captioner_class(options).at_commit(options)
        return pinned

    @staticmethod
    def fingerprint(options: CaptionOptions) -> Any:
        return captioner_class(options).fingerprint(options)

    @staticmethod
    def packages(options: CaptionOptions) -> tuple[str, ...]:
        return () if options.server else ("torch", "transformers", "tokenizers", "pillow", "numpy")

    @staticmethod
    def on_device(options: CaptionOptions, gpu: bool | None) -> CaptionOptions:
        """Return the options with device and number format named; `gpu` is whether a cluster has a GPU."""
        if options.server:
            return options
        if options.device == "auto" and gpu is not None:
            options = replace(options, device="cuda" if gpu else "cpu")
        named: dict[str, Any] = dict(arithmetic(options))
        return replace(options, **named)

    @staticmethod
    def on_gpu(options: CaptionOptions) -> bool:
        return not options.server and arithmetic(options)["device"] == "cuda"

    @staticmethod
    def gpu_found() -> bool:
        return gpu_works()

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
