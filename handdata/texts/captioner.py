"""Image captioners: BLIP (default), BLIP-2, PaliGemma or ViT-GPT2.

`model_type` in the model's configuration selects the family. (Hand1000 compares BLIP-2, PaliGemma and ViT-GPT2.)
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.huggingface import model_folder
from handdata.machine import choose_device
from handdata.readers import read_json
from handdata.recipe import CaptionOptions, flag

OPTION = flag("caption", "model")


@dataclass(frozen=True)
class Family:
    """Class and prompt of one kind of captioner."""

    model_class: str  # class in transformers
    prompt: str | None = None  # text that the model expects, if any


FAMILIES: dict[str, Family] = {  # by `model_type` of the model's configuration
    "blip": Family("BlipForConditionalGeneration"),
    "blip-2": Family("Blip2ForConditionalGeneration"),
    "paligemma": Family("PaliGemmaForConditionalGeneration", "<image>caption en"),
    "vision-encoder-decoder": Family("VisionEncoderDecoderModel"),
}

# BLIP-large's words for people that do not exist in English (reported by many of its users)
_INVENTED_WORDS = re.compile(r"\b(?:arafed|arafe|araffe|araffed|arafes|araffes|arafly|araffy)\b\s*", re.IGNORECASE)


class Captioner:
    """A captioning model on its device."""

    def __init__(self, options: CaptionOptions) -> None:
        """Load the model. Raises `UserError` for a model that is missing, gated, or of an unknown family."""
        try:
            import torch
            import transformers
        except ImportError:
            raise UserError("captions need torch and transformers: pip install 'hand1000[data]'") from None
        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        folder, self.revision = model_folder(options.model, options.revision, OPTION)
        self._device = choose_device(options.device)
        dtype = getattr(torch, _dtype(options, self._device.type))
        kind = _read_config(folder, options.model).get("model_type")
        if kind not in FAMILIES:
            raise UserError(f"{options.model} is a model of the type '{kind}'; captioners are {', '.join(FAMILIES)}")
        self._family, self._torch = FAMILIES[kind], torch
        self._batch, self._max_new_tokens = options.batch, options.max_new_tokens
        try:
            self._processor = _load_processor(transformers, kind, folder)
            model_class = getattr(transformers, self._family.model_class)
            self._model = model_class.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{options.model} cannot be loaded: {str(error).splitlines()[0]}") from None
        self._model = self._model.to(self._device).eval()

    def describe(self, images: list[Any]) -> list[str]:
        """Return a caption for each RGB image (h, w, 3), greedily decoded."""
        captions: list[str] = []
        while len(captions) < len(images):
            part = images[len(captions) : len(captions) + self._batch]
            try:
                inputs = self._inputs(part)
                with self._torch.inference_mode():
                    tokens = self._model.generate(
                        **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1
                    )  # (b, length)
            except self._torch.OutOfMemoryError:
                if self._batch == 1:
                    remedy = f"use cpu for {flag('caption', 'device')}"
                    raise Unfinished(f"the GPU has too little memory for one image: {remedy}") from None
                self._batch //= 2
                self._free()
                continue
            if self._family.prompt:
                tokens = tokens[:, inputs["input_ids"].shape[1] :]
            captions += map(clean, self._processor.batch_decode(tokens, skip_special_tokens=True))
        return captions

    def close(self) -> None:
        """Release the model's memory, including that of the GPU."""
        self._model = None
        self._free()

    def _inputs(self, images: list[Any]) -> dict[str, Any]:
        """Return the model's inputs for images (h, w, 3), on its device and in its number format."""
        from PIL import Image as Pillow

        prompts = {"text": [self._family.prompt] * len(images)} if self._family.prompt else {}
        pictures = [Pillow.fromarray(image) for image in images]
        inputs = self._processor(images=pictures, return_tensors="pt", **prompts).to(self._device)
        dtype = self._model.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def _free(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


def arithmetic(options: CaptionOptions) -> dict[str, str]:
    """Return the kind of device and the number format of a captioner, which decide words where two are close."""
    device = choose_device("auto").type if options.device == "auto" else options.device
    return {"device": device, "dtype": _dtype(options, device)}


def clean(caption: str) -> str:
    """Return a caption on one line without BLIP-large's `arafed` and `araffe`, with the right article."""
    words = _INVENTED_WORDS.sub("", " ".join(caption.split())).strip()
    if words == caption.strip():
        return words
    words = re.sub(
        r"\b([Aa])n?\s+(?=(\w))", lambda match: match[1] + ("n " if match[2].lower() in "aeio" else " "), words
    )
    starts_bare = re.match(r"(?:man|woman|boy|girl|person|child|image|photo|picture|hand|view)\b", words)
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}" if starts_bare else words


def _dtype(options: CaptionOptions, device: str) -> str:
    best = "bfloat16" if device == "cuda" else "float32"
    return best if options.dtype == "auto" else options.dtype


def _read_config(folder: Path, model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = read_json(folder / "config.json")
    if config is None:
        raise UserError(f"{model} has no readable config.json: it is not a model of transformers; see {OPTION}")
    return config


def _load_processor(transformers: Any, kind: str, folder: Path) -> Any:
    # Pillow's resizing: torchvision's differs and is not always installed, so that captions would depend on it
    if kind != "vision-encoder-decoder":
        return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    return _PairedProcessor(
        transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil"),
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
    )


class _PairedProcessor:
    """Image processor and tokenizer of ViT-GPT2, which has no class for both."""

    def __init__(self, images: Any, tokenizer: Any) -> None:
        self._images, self.batch_decode = images, tokenizer.batch_decode

    def __call__(self, images: list[Any], return_tensors: str) -> Any:
        return self._images(images=images, return_tensors=return_tensors)
