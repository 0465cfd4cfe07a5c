"""Write a model folder: a diffusers pipeline with the tuned UNet, and the gesture in hand1000.json."""

import errno
import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import handtrain.method.conditioning
import handtrain.method.fusion
import handtrain.model.pipeline
from handdata.files import whole_folder, write_json, write_text
from handdata.huggingface import COMPONENT_FILES, OTHER_WEIGHTS
from handdata.readers import read_json
from handdata.shipped import version
from handtrain.method.conditioning import PoseLayers
from handtrain.method.fusion import FlatFusion, TokenFusion
from handtrain.method.gesture import NUMBERS
from handtrain.model.base import Base
from handtrain.model.card import model_card
from handtrain.model.pipeline import ABOUT_FILE, FUSION_FILE, POSE_FILE

_COPIED = ("text_encoder", "tokenizer", "vae")
_CHECKER = ("safety_checker", "feature_extractor")


def export(
    folder: Path, base: Base, unet: Any, about: dict[str, Any], layer: TokenFusion | None, safety_checker: bool,
    pose: PoseLayers | None = None,
) -> None:  # fmt: skip
    """Write a model folder that is whole or absent.

    `about` becomes hand1000.json; the fusion layer and the pose layers have files of their own. All components but the
    UNet are the base's own files; its safety checker is left out unless `safety_checker` is set.
    """
    from safetensors.torch import save_file

    index = read_json(base.folder / "model_index.json")
    checker = safety_checker and all((index.get(part) or [None])[0] for part in _CHECKER)
    with whole_folder(folder) as partial:
        for part in (*_COPIED, *(_CHECKER if checker else ())):
            _copy_component(base.folder / part, partial / part)
        with _full_disk_as_oserror(partial):
            unet.save_pretrained(partial / "unet")
            base.sampling_schedule().save_pretrained(partial / "scheduler")
            for module, file in ((layer, FUSION_FILE), (pose, POSE_FILE)):
                if module is not None:
                    save_file({name: tensor.cpu() for name, tensor in module.state_dict().items()}, partial / file)
        write_json(partial / "model_index.json", _index(index, checker), indent=2)
        write_json(partial / ABOUT_FILE, {"format": 1, **about}, indent=2)
        write_texts(partial, about)


def write_texts(folder: Path, about: dict[str, Any], metrics: str = "") -> None:
    """Write a model folder's card, with a Markdown table of metrics if given, and its one-file pipeline."""
    write_text(folder / "README.md", model_card(about, metrics))
    write_text(folder / "pipeline.py", one_file())


def one_file() -> str:
    """Return the pipeline as one self-contained source file, for diffusers' `custom_pipeline`."""
    modules = (handtrain.method.fusion, handtrain.method.conditioning, handtrain.model.pipeline)
    *ground, pipeline = (inspect.getsource(module) for module in modules)
    kept, ours = [], 0
    for line in pipeline.splitlines(keepends=True):
        is_ours = line.startswith("from handtrain.method.")
        ours += is_ours
        if not is_ours:
            kept.append(line)
    assert ours == len(ground) and "import (" not in pipeline, "the pipeline's imports of our modules have changed"
    files = ", ".join(f"{module.__name__.replace('.', '/')}.py" for module in modules)
    note = f"# hand1000 {version()}, Apache-2.0. Made from {files}.\n"
    return note + "\n\n".join([*ground, "".join(kept)])


def fusion_record(base: Base, seed: int, layer: TokenFusion | None) -> dict[str, Any]:
    """Return the entry `fusion` of hand1000.json: for the flat layer its seed and the hash of its first weights."""
    size = {"tokens": base.tokens, "width": base.width}
    if layer is not None:
        return {"kind": "token", **size}
    first_block = FlatFusion(seed, base.tokens, base.width, NUMBERS).first_block_sha256()
    return {"kind": "flat", **size, "seed": seed, "first_block_sha256": first_block}


def _index(index: dict[str, Any], checker: bool) -> dict[str, Any]:
    # Plain diffusers cannot load Hand1000Pipeline by its name.
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


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error):  # ENOSPC, as safetensors words it
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
