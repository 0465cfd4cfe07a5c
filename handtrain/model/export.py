"""Write a model folder: a diffusers pipeline with the tuned UNet, and the gesture in hand1000.json."""

import errno
import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import handtrain.method.conditioning
import handtrain.method.fusion
import handtrain.model.pipeline
from handdata.files import sha256_by_path, whole_folder, write_json, write_text
from handdata.shipped import version
from handtrain.method.conditioning import PoseLayers
from handtrain.method.fusion import FlatFusion, TokenFusion
from handtrain.method.gesture import NUMBERS
from handtrain.model.base import Base
from handtrain.model.card import model_card
from handtrain.model.components import CHECKER, NETWORKS
from handtrain.model.pipeline import ABOUT_FILE, FUSION_FILE, POSE_FILE
from handtrain.model.tokenizer import TOKENIZER_FILES, TOKENIZER_NAMES, load_tokenizer
from handtrain.seals import sealed

_CHECKER = ("safety_checker", "feature_extractor")


def export(
    folder: Path, base: Base, unet: Any, about: dict[str, Any], layer: TokenFusion | None, safety_checker: bool,
    pose: PoseLayers | None = None,
) -> None:  # fmt: skip
    """Write a model folder that is whole or absent.

    `about` becomes hand1000.json, with the sha256 of all files whose content is fixed; the fusion layer and the pose
    layers have files of their own. All weights are stored in float32: a pipeline whose parts have different types
    fails. The base's safety checker is left out unless `safety_checker` is set.
    """
    from safetensors.torch import save_file

    checker = base.safety_checker() if safety_checker else None
    with whole_folder(folder) as partial:
        _copy_tokenizer(base, partial / "tokenizer")
        with _full_disk_as_oserror(partial):
            for part, network in (("unet", unet), ("vae", base.vae()), ("text_encoder", base.text_encoder())):
                network.save_pretrained(partial / part)
            base.sampling_schedule().save_pretrained(partial / "scheduler")
            for part, saved in zip(_CHECKER, checker or (), strict=False):
                saved.save_pretrained(partial / part)
            for module, file in ((layer, FUSION_FILE), (pose, POSE_FILE)):
                if module is not None:
                    save_file({name: tensor.cpu() for name, tensor in module.state_dict().items()}, partial / file)
        write_json(partial / "model_index.json", _index(checker is not None), indent=2)
        write_json(partial / ABOUT_FILE, sealed({"format": 1, **about, "files": sha256_by_path(partial)}), indent=2)
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


def _index(checker: bool) -> dict[str, Any]:
    import diffusers

    # Plain diffusers cannot load Hand1000Pipeline by its name.
    components = {
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if checker else [None, None],
        "image_encoder": [None, None],
        "safety_checker": list(CHECKER.names[0]) if checker else [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": list(TOKENIZER_NAMES[0]),
        **{name: list(network.names[0]) for name, network in NETWORKS.items()},
    }
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": checker,
        **components,
    }


def _copy_tokenizer(base: Base, target: Path) -> None:
    target.mkdir()
    for name in TOKENIZER_FILES:
        if (base.folder / "tokenizer" / name).is_file():
            shutil.copyfile(base.folder / "tokenizer" / name, target / name)
    if load_tokenizer(target, base.tokens).init_kwargs.get("model_max_length") != base.tokens:
        base.tokenizer().save_pretrained(target)  # without it plain pipelines do not cut long texts


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error):  # ENOSPC, as safetensors words it
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
