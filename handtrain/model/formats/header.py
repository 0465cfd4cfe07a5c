"""Safetensors files for other programs: tensors of one type, with a header that describes them.

The header's names are those of Stability's model spec (`modelspec.*`) and of sd-scripts (`ss_*`), which ComfyUI and
A1111 show; `hand1000` is a JSON object of our own.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from handdata.files import whole_file
from handdata.shipped import version

_LICENCE, _LICENCE_XL, _LICENCE_Z = "CreativeML OpenRAIL-M", "CreativeML OpenRAIL++-M", "Apache-2.0"
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is whole or absent, with the sha256 of its tensors as `modelspec.hash_sha256`.

    The library's own writer stores several entries of metadata in an order that changes from process to process.
    """
    entries: dict[str, Any] = {}
    digest, end = hashlib.sha256(), 0
    for name, tensor in sorted(tensors.items()):
        data = _bytes(tensor)
        digest.update(data)
        start, end = end, end + data.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    described = {**metadata, "modelspec.hash_sha256": f"0x{digest.hexdigest()}"}
    header = json.dumps({"__metadata__": described, **entries}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in sorted(tensors.items()):
            file.write(_bytes(tensor))


def metadata_of(
    about: Mapping[str, Any], configs: Mapping[str, Any], title: str, resolution: int, adapters: bool
) -> dict[str, str]:
    """Return the metadata of a model: its trigger phrase, base, method, licence and architecture.

    `about` is hand1000.json of a trained model, empty for a plain base; `adapters` is set for a LoRA.
    """
    second = configs["text_encoder"].get("hidden_act") == "gelu"
    predicts_v = configs["scheduler"].get("prediction_type") == "v_prediction"
    size = ("-768-v" if predicts_v else "-512") if second else ""
    kind, licence = f"stable-diffusion-v{2 if second else 1}{size}", _LICENCE
    if "text_encoder_2" in configs:
        kind, licence = "stable-diffusion-xl-v1-base", _LICENCE_XL
    flow = "transformer" in configs
    if flow:
        kind, licence = "z-image", _LICENCE_Z
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{kind}{'/lora' if adapters else ''}",
        # that of the names: diffusers' blocks in a LoRA, the original ones in a whole model
        "modelspec.implementation": "diffusers" if adapters else "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
    }
    if not flow:  # the specification has no name for the targets of flow matching
        metadata["modelspec.prediction_type"] = "v" if predicts_v else "epsilon"
    if not about:
        return metadata
    training = about.get("training", {})
    base = {name: training["base"].get(name) for name in ("place", "revision", "fingerprint")} if training.get("base") \
        else None  # fmt: skip
    own = {
        "version": version(), "base": base, "gestures": _gestures(about), "phrases": phrases_of(about),
        "method": "Hand1000 (arXiv 2408.15461)", "preset": training.get("preset"), "licence": licence,
    }  # fmt: skip
    return {
        **metadata,
        "modelspec.trigger_phrase": ", ".join(phrases_of(about)),
        "modelspec.license": licence,
        "modelspec.usage_hint": " ".join(left_out(about)),
        "hand1000": json.dumps(own, sort_keys=True),
    }


def phrases_of(about: Mapping[str, Any]) -> list[str]:
    """Return the phrases that name a trained model's gestures in a prompt."""
    table = about.get("gestures") or {}
    return [entry["phrase"] for entry in table.values()] or [about["gesture_phrase"]]


def left_out(about: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each part of a trained model that a file for other programs cannot carry."""
    sentences = []
    if about.get("fusion", {}).get("kind", "none") != "none" and about.get("lam", 1) < 1:
        sentences.append(
            f"The gesture feature (fusion, {1 - about['lam']:.2g} of the prompt's embedding) is left out: other "
            "programs know the text alone."
        )
    if about.get("pose"):
        sentences.append("The pose layers (pose.safetensors) are left out: poses need hand1000.")
        if about.get("training", {}).get("options", {}).get("pose_dropout") == 0:
            sentences.append(
                "No image of the training was without its pose, so this model draws about what its base draws "
                "without one: for programs that know no poses train with --pose none."
            )
    return sentences


def _gestures(about: Mapping[str, Any]) -> list[str]:
    return list(about.get("gestures") or [about["gesture"]])


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor, little-endian as on every machine that torch supports."""
    data: memoryview = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
