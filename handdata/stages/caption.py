"""The stage `caption`: descriptions of the stored images by an image captioner."""

from dataclasses import replace
from typing import Any, ClassVar

from handdata.huggingface import local_model, model_commit
from handdata.machine import gpu_works
from handdata.recipe import CaptionOptions
from handdata.stages import Columns
from handdata.texts.captioner import OPTION, Captioner, arithmetic
from handdata.vision.landmarks import decode


class Captions:
    """Describe the stored images."""

    version: ClassVar = 1
    inputs: ClassVar = ("image",)
    final_reasons: ClassVar = frozenset({"image-corrupt", "caption-empty"})
    threads: ClassVar = True

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with a branch on the Hub resolved to its commit; those of a local model unchanged."""
        if local_model(options.model):
            return options
        return replace(options, revision=model_commit(options.model, options.revision, OPTION))

    @staticmethod
    def fingerprint(options: CaptionOptions) -> Any:
        revision = model_commit(options.model, options.revision, OPTION)
        deciding = {"model": options.model, "revision": revision, "max_new_tokens": options.max_new_tokens}
        return deciding | arithmetic(options)

    @staticmethod
    def packages(options: CaptionOptions) -> tuple[str, ...]:
        return ("torch", "transformers", "tokenizers", "pillow", "numpy")

    @staticmethod
    def on_device(options: CaptionOptions, gpu: bool | None) -> CaptionOptions:
        """Return the options with device and number format named; `gpu` is whether a cluster has a GPU."""
        if options.device == "auto" and gpu is not None:
            options = replace(options, device="cuda" if gpu else "cpu")
        named: dict[str, Any] = dict(arithmetic(options))
        return replace(options, **named)

    @staticmethod
    def on_gpu(options: CaptionOptions) -> bool:
        return arithmetic(options)["device"] == "cuda"

    @staticmethod
    def gpu_found() -> bool:
        return gpu_works()

    def __init__(self, options: CaptionOptions) -> None:
        self._captioner = Captioner(options)

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
    return None if caption else "caption-empty"
