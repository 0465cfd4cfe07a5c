"""Write a model folder: a diffusers pipeline with the tuned UNet, and the gesture in hand1000.json."""

import errno
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import handtrain.method.conditioning
import handtrain.method.fusion
import handtrain.method.noise
import handtrain.model.gesture_file
import handtrain.model.gesture_mixin
from handdata.errors import UserError
from handdata.files import sha256_by_path, whole_folder, write_json, write_text
from handdata.readers import read_json
from handdata.shipped import version
from handtrain.method.conditioning import PoseLayers
from handtrain.method.fusion import FlatFusion, TokenFusion
from handtrain.method.gesture import NUMBERS
from handtrain.model.base import BACKBONES, Base
from handtrain.model.card import model_card
from handtrain.model.components import CHECKER
from handtrain.model.gesture_file import ABOUT_FILE, FUSION_FILE, POSE_FILE
from handtrain.model.tokenizer import TOKENIZER_FILES
from handtrain.seals import SEAL, sealed

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
        with _full_disk_as_oserror(partial):
            _write_pipeline(partial, base, unet, checker, torch.float32)
            base.sampling_schedule().save_pretrained(partial / "scheduler")
            for module, file in ((layer, FUSION_FILE), (pose, POSE_FILE)):
                if module is not None:
                    save_file({name: tensor.cpu() for name, tensor in module.state_dict().items()}, partial / file)
        write_json(partial / "model_index.json", _index(base, checker is not None, base.backbone.SAMPLER), indent=2)
        _write_about(partial, about)


def convert(folder: Path, base: Base, about: dict[str, Any], dtype: torch.dtype) -> None:
    """Write a base, or a trained model whose hand1000.json is `about`, as a folder with all weights in one type.

    The scheduler of a base stays as it is. Raises `UserError` for a weight that is too large for the type.
    """
    from safetensors.torch import load_file, save_file

    checker = base.safety_checker()
    with whole_folder(folder) as partial:
        with _full_disk_as_oserror(partial):
            _write_pipeline(partial, base, base.denoiser(), checker, dtype)
            for file in (FUSION_FILE, POSE_FILE) if about else ():
                if (base.folder / file).is_file():
                    weights = {name: tensor.to(dtype) for name, tensor in load_file(base.folder / file).items()}
                    save_file(weights, partial / file)
        scheduler = base.configs["scheduler"]
        (partial / "scheduler").mkdir()
        write_json(partial / "scheduler" / "scheduler_config.json", scheduler, indent=2)
        kind = scheduler.get("_class_name", base.backbone.SAMPLER)
        write_json(partial / "model_index.json", _index(base, checker is not None, kind), indent=2)
        if about:
            _write_about(partial, {name: value for name, value in about.items() if name not in ("files", SEAL)})


def _write_pipeline(partial: Path, base: Base, unet: Any, checker: tuple[Any, Any] | None, dtype: torch.dtype) -> None:
    """Write the tokenizers, the networks and, if given, the safety checker with its image processor."""
    for part in base.tokenizer_folders:
        _copy_tokenizer(base, part, partial / part)
    for part in base.backbone.NETWORKS:
        network = unet if part == base.backbone.TRAINED else base.network(part)
        _in_type(network, dtype, part).save_pretrained(partial / part)
    if checker:
        _in_type(checker[0], dtype, _CHECKER[0]).save_pretrained(partial / _CHECKER[0])
        checker[1].save_pretrained(partial / _CHECKER[1])


def _in_type(network: Any, dtype: torch.dtype, part: str) -> Any:
    if dtype == torch.float32:
        return network
    torch.nn.Module.to(network, dtype=dtype)  # diffusers' own `to` prints a warning
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"the weight {name} of the {part} is too large for {dtype}: export it with --to diffusers")
    return network


def _write_about(partial: Path, about: dict[str, Any]) -> None:
    write_json(partial / ABOUT_FILE, sealed({"format": 1, **about, "files": sha256_by_path(partial)}), indent=2)
    write_texts(partial, about)


def write_texts(folder: Path, about: dict[str, Any], metrics: str = "") -> None:
    """Write a model folder's card, with a Markdown table of metrics if given, and its one-file pipeline."""
    kind = str((read_json(folder / "model_index.json") or {}).get("_class_name", "StableDiffusionPipeline"))
    write_text(folder / "README.md", model_card(about, metrics, kind))
    if BACKBONES[kind].TUNED_PIPELINE:
        write_text(folder / "pipeline.py", one_file(kind))


def one_file(kind: str = "StableDiffusionPipeline") -> str:
    """Return our pipeline for a kind of model as one self-contained source file, for diffusers' `custom_pipeline`."""
    ground = (
        handtrain.method.fusion, handtrain.method.conditioning, handtrain.method.noise,
        handtrain.model.gesture_file, handtrain.model.gesture_mixin,
    )  # fmt: skip
    ours = BACKBONES[kind].TUNED_PIPELINE
    assert ours is not None
    modules = (*ground, sys.modules[ours.__module__])
    sources = []
    for module in modules:
        lines = inspect.getsource(module).splitlines(keepends=True)
        kept = "".join(line for line in lines if not line.startswith("from handtrain."))
        assert "handtrain." not in re.sub(r'"""(.|\n)*?"""|#.*', "", kept) and "import (" not in kept, module.__name__
        sources.append(kept)
    files = ", ".join(f"{module.__name__.replace('.', '/')}.py" for module in modules)
    note = f"# hand1000 {version()}, Apache-2.0. Made from {files}.\n"
    return note + "\n\n".join(sources)


def fusion_record(base: Base, seed: int, layer: TokenFusion | None) -> dict[str, Any]:
    """Return the entry `fusion` of hand1000.json: for the flat layer its seed and the hash of its first weights.

    Without a layer the kind is `none` where the base is too large for the flat one, which training refuses then.
    """
    tokens, width = base.sizes.tokens, base.sizes.width
    size = {"tokens": tokens, "width": width}
    if layer is not None:
        return {"kind": "token", **size}
    if "flat" not in base.backbone.FUSIONS:
        return {"kind": "none"}
    first_block = FlatFusion(seed, tokens, width, NUMBERS).first_block_sha256()
    return {"kind": "flat", **size, "seed": seed, "first_block_sha256": first_block}


def _index(base: Base, checker: bool, scheduler: str) -> dict[str, Any]:
    import diffusers

    backbone = base.backbone
    optional: dict[str, Any] = {part: [None, None] for part in backbone.OPTIONAL}
    if "safety_checker" in optional:
        optional["requires_safety_checker"] = checker
    if checker:
        optional |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "safety_checker": CHECKER.names[0]}
    return {
        "_class_name": backbone.PIPELINE,  # plain diffusers cannot load Hand1000Pipeline by its name
        "_diffusers_version": diffusers.__version__,
        **optional,
        **base.settings,
        "scheduler": ["diffusers", scheduler],
        **{part: list(backbone.TOKENIZER_CLASSES[0]) for part in base.tokenizer_folders},
        **{name: list(network.names[0]) for name, network in backbone.NETWORKS.items()},
    }


def _copy_tokenizer(base: Base, part: str, target: Path) -> None:
    target.mkdir()
    source, tokens = base.tokenizer_folders[part], base.sizes.tokens
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if base.backbone.load_tokenizer(target, tokens).init_kwargs.get("model_max_length") != tokens:
        base.tokenizer(part).save_pretrained(target)  # without it plain pipelines do not cut long texts


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error):  # ENOSPC, as safetensors words it
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
