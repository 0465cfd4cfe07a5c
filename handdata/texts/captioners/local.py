"""Captioners of transformers: BLIP (default), BLIP-2, PaliGemma, ViT-GPT2, Florence-2, and all that follow a request.

`model_type` in the model's configuration selects the family. (Hand1000 compares BLIP-2, PaliGemma and ViT-GPT2.) Every
other model of transformers' image-text-to-text with a chat template (Qwen-VL, SmolVLM, LLaVA, Gemma) is prompted with
the recipe's request. No code of a model's repository runs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handdata.errors import Unfinished, UserError, first_line
from handdata.huggingface import HubName, local_model, model_commit, model_folder
from handdata.machine import choose_device
from handdata.readers import read_json
from handdata.recipe import CaptionOptions, flag
from handdata.texts.answers import clean as clean_answer
from handdata.texts.captioners.captioner import clean
from handdata.texts.chat import Answer
from handdata.texts.chat_template import VARIABLES
from handdata.weights.hub import require_access

OPTION = flag("caption", "model")


@dataclass(frozen=True)
class Family:
    """Class and prompt of one kind of captioner."""

    model_class: str  # class in transformers
    prompt: str | None = None  # text that the model expects, if any
    follows: bool = False  # follows a request in words, which its chat template wraps


FAMILIES: dict[str, Family] = {  # by `model_type` of the model's configuration
    "blip": Family("BlipForConditionalGeneration"),
    "blip-2": Family("Blip2ForConditionalGeneration"),
    "paligemma": Family("PaliGemmaForConditionalGeneration", "<image>caption en"),
    "vision-encoder-decoder": Family("VisionEncoderDecoderModel"),
    "florence2": Family("Florence2ForConditionalGeneration", "<CAPTION>"),
}
FOLLOWS = Family("AutoModelForImageTextToText", follows=True)  # every other model of image-text-to-text


class LocalCaptioner:
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
        kind = str(_read_config(folder, options.model).get("model_type"))
        self._family, self._torch = _family(transformers, kind, options.model), torch
        self._batch, self._max_new_tokens = options.batch, options.max_new_tokens
        try:
            self._processor = _load_processor(transformers, kind, folder)
            model_class = getattr(transformers, self._family.model_class)
            self._model = model_class.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{options.model} cannot be loaded: {str(error).splitlines()[0]}") from None
        self._model = self._model.to(self._device).eval()
        self._prompt = self._family.prompt
        if self._family.follows:
            self._prompt = _chat_prompt(self._processor, options)

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with a branch on the Hub resolved to its commit; those of a local model unchanged.

        Raises `UserError` for a model whose terms the user has not accepted.
        """
        folder = local_model(options.model)
        if folder:
            _read_config(folder, options.model)
            return options
        commit = model_commit(options.model, options.revision, OPTION)
        require_access(HubName(options.model.removeprefix("hf:").partition("@")[0], commit), OPTION)
        return replace(options, revision=commit)

    @staticmethod
    def fingerprint(options: CaptionOptions) -> dict[str, Any]:
        revision = model_commit(options.model, options.revision, OPTION)
        deciding = {"model": options.model, "revision": revision, "max_new_tokens": options.max_new_tokens}
        default = options.prompt == CaptionOptions().prompt  # not entered: captions made before it existed are kept
        return deciding | arithmetic(options) | ({} if default else {"prompt": options.prompt})

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
            if self._prompt and not self._model.config.is_encoder_decoder:
                tokens = tokens[:, inputs["input_ids"].shape[1] :]
            captions += map(self._caption, self._processor.batch_decode(tokens, skip_special_tokens=True))
        return captions

    def close(self) -> None:
        """Release the model's memory, including that of the GPU."""
        self._model = None
        self._free()

    def _inputs(self, images: list[Any]) -> dict[str, Any]:
        """Return the model's inputs for images (h, w, 3), on its device and in its number format."""
        from PIL import Image as Pillow

        options: dict[str, Any] = {"text": [self._prompt] * len(images)} if self._prompt else {}
        pictures: list[Any] = [Pillow.fromarray(image) for image in images]
        if self._family.follows:  # images may become different numbers of tokens
            pictures, options["padding"] = [[picture] for picture in pictures], True
            bos = self._processor.tokenizer.bos_token
            options["add_special_tokens"] = not (bos and str(self._prompt).startswith(bos))
        inputs = self._processor(images=pictures, return_tensors="pt", **options).to(self._device)
        dtype, tensor = self._model.dtype, self._torch.is_tensor
        inputs = {name: value for name, value in inputs.items() if tensor(value)}
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def _caption(self, text: str) -> str:
        return clean(clean_answer(Answer(text)).text if self._family.follows else text)

    def _free(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


def arithmetic(options: CaptionOptions) -> dict[str, str]:
    """Return the kind of device and the number format of a captioner, which decide words where two are close."""
    device = choose_device("auto").type if options.device == "auto" else options.device
    return {"device": device, "dtype": _dtype(options, device)}


def _dtype(options: CaptionOptions, device: str) -> str:
    best = "bfloat16" if device == "cuda" else "float32"
    return best if options.dtype == "auto" else options.dtype


def _read_config(folder: Path, model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = read_json(folder / "config.json")
    if config is None:
        raise UserError(f"{model} has no readable config.json: it is not a model of transformers; see {OPTION}")
    return config


def _family(transformers: Any, kind: str, model: str) -> Family:
    """Return the family of a model type. Raises `UserError` for a type that transformers cannot caption with."""
    known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if kind in FAMILIES or kind in known:
        return FAMILIES.get(kind, FOLLOWS)
    raise UserError(
        f"{model} is a model of the type '{kind}'; captioners are {', '.join(FAMILIES)}, and the models of"
        " image-text-to-text whose class is a part of transformers"
    )


def _chat_prompt(processor: Any, options: CaptionOptions) -> str:
    """Return the recipe's request about one image in the model's chat template, ready for the answer."""
    if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
        raise UserError(f"{options.model} has no chat template, so it cannot follow a request: see {OPTION}")
    processor.tokenizer.padding_side = "left"  # the answer follows the last token of every row
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    content = [{"type": "image"}, {"type": "text", "text": options.prompt}]
    turns = [{"role": "user", "content": content}]
    try:
        return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **VARIABLES))
    except Exception as error:  # noqa: BLE001 (a template may raise anything)
        raise UserError(f"the chat template of {options.model} cannot be used: {first_line(error)}") from None


def _load_processor(transformers: Any, kind: str, folder: Path) -> Any:
    # Pillow's resizing: torchvision's differs and is not always installed, so that captions would depend on it
    if kind in FAMILIES and kind != "vision-encoder-decoder":
        return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    if kind not in FAMILIES:  # a processor of videos in it has no Pillow backend
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        processor.image_processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, backend="pil"
        )
        return processor
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
