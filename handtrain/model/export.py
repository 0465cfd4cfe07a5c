"""Write a model folder: a diffusers pipeline with the tuned UNet, and hand1000.json with the gesture beside it."""

import errno
import inspect
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import handtrain.method.fusion
import handtrain.model.pipeline
from handdata.huggingface import COMPONENT_FILES, OTHER_WEIGHTS
from handtrain.method.fusion import FlatFusion, TokenFusion
from handtrain.method.gesture import NUMBERS
from handtrain.model.base import Base
from handtrain.model.card import model_card
from handtrain.model.pipeline import ABOUT_FILE, FUSION_FILE

_COPIED = ("text_encoder", "tokenizer", "vae")
_CHECKER = ("safety_checker", "feature_extractor")


def export(
    folder: Path, base: Base, unet: Any, about: dict[str, Any], layer: TokenFusion | None, safety_checker: bool
) -> None:
    """Write the model folder, whole or not at all.

    `about` becomes hand1000.json. All components but the UNet are the base's
    own files; of the base's safety checker only if it is wanted.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    index = json.loads((base.folder / "model_index.json").read_text(encoding="utf-8"))
    checker = safety_checker and all(_is_there(index, part) for part in _CHECKER)
    for part in (*_COPIED, *(_CHECKER if checker else ())):
        _copy_component(base.folder / part, partial / part)
    with _full_disk_as_oserror(partial):
        unet.save_pretrained(partial / "unet")
        base.sampling_schedule().save_pretrained(partial / "scheduler")
        if layer is not None:
            from safetensors.torch import save_file

            save_file({name: tensor.cpu() for name, tensor in layer.state_dict().items()}, partial / FUSION_FILE)
    _write_json(partial / "model_index.json", _index(index, checker))
    _write_json(partial / ABOUT_FILE, {"format": 1, **about})
    (partial / "pipeline.py").write_text(one_file(), encoding="utf-8")
    (partial / "README.md").write_text(model_card(about), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def one_file() -> str:
    """Return the pipeline as one self-contained source file, for diffusers' `custom_pipeline`."""
    fusion, pipeline = (inspect.getsource(module) for module in (handtrain.method.fusion, handtrain.model.pipeline))
    ours = "from handtrain.method.fusion import FlatFusion, TokenFusion, mix\n"
    assert ours in pipeline, "the pipeline's import of the fusion has changed"
    files = "handtrain/method/fusion.py and handtrain/model/pipeline.py"
    note = f"# hand1000 {version('hand1000')}, Apache-2.0. Made from {files}.\n"
    return note + fusion + "\n\n" + pipeline.replace(ours, "")


def fusion_record(base: Base, seed: int, layer: TokenFusion | None) -> dict[str, Any]:
    """Return what hand1000.json says of the fusion: of the flat layer its seed, and the proof of the stream."""
    size = {"tokens": base.tokens, "width": base.width}
    if layer is not None:
        return {"kind": "token", **size}
    proof = FlatFusion(seed, base.tokens, base.width, NUMBERS).first_block_sha256()
    return {"kind": "flat", **size, "seed": seed, "first_block_sha256": proof}


def _is_there(index: dict[str, Any], part: str) -> bool:
    return bool((index.get(part) or [None])[0])


def _index(index: dict[str, Any], checker: bool) -> dict[str, Any]:
    # Plain diffusers knows no other class by name; Hand1000Pipeline is asked for by whoever wants the gesture.
    changes: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    changes["image_encoder"] = [None, None]
    if not checker:
        changes.update({part: [None, None] for part in _CHECKER}, requires_safety_checker=False)
    return {**index, **changes}


def _copy_component(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        wanted = any(fnmatch(file.name, pattern) for pattern in COMPONENT_FILES)
        if wanted and not any(fnmatch(file.name, pattern) for pattern in OTHER_WEIGHTS):
            shutil.copyfile(file, target / file.name)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error):  # ENOSPC, as safetensors words it
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
