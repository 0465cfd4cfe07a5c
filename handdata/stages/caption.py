"""The stage `captions`: the stored images in a captioner's words."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from handdata.huggingface import local_model, model_folder
from handdata.landmarks import decode
from handdata.recipe import CaptionOptions
from handdata.stages import Columns
from handdata.texts.captioner import Captioner


class Captions:
    """Describe the stored images."""

    name: ClassVar = "captions"
    version: ClassVar = 1
    inputs: ClassVar = ("image",)
    final_reasons: ClassVar = frozenset({"image-corrupt", "caption-empty"})

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with the commit that a branch of the Hub stands for now; of a folder as they are."""
        if local_model(options.model):
            return options
        return replace(options, revision=model_folder(options.model, options.revision)[1])

    @staticmethod
    def fingerprint(options: CaptionOptions) -> Any:
        _, revision = model_folder(options.model, options.revision)
        return {"model": options.model, "revision": revision, "max_new_tokens": options.max_new_tokens}

    def __init__(self, options: CaptionOptions) -> None:
        self._captioner = Captioner(options)

    def __call__(self, columns: Columns) -> Columns:
        """Take `image` (bytes or None); return `caption` and `reason`."""
        images = [data and decode(data) for data in columns["image"]]
        reasons = [_trouble(data, image) for data, image in zip(columns["image"], images, strict=True)]
        said = iter(self._captioner.describe([image for image in images if image is not None]))
        captions = [next(said) if image is not None else None for image in images]
        reasons = [
            "caption-empty" if reason is None and not caption else reason
            for reason, caption in zip(reasons, captions, strict=True)
        ]
        return {"caption": [caption or None for caption in captions], "reason": reasons}

    def close(self) -> None:
        self._captioner.close()


def absolute(options: CaptionOptions, folder: Path) -> CaptionOptions:
    """Return the options with a model folder beside the recipe named by its absolute path."""
    here = folder / options.model
    return replace(options, model=str(here.absolute())) if here.is_dir() else options


def _trouble(data: bytes | None, image: Any) -> str | None:
    if data is None:
        return "image-missing"
    return "image-corrupt" if image is None else None
