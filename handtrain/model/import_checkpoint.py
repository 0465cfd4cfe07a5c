"""Import a checkpoint of the paper's released code: the original Stable Diffusion layout, saved by torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.files import require_writable_folder
from handdata.gestures import gestures, require
from handdata.huggingface import Place, parse_model
from handtrain.model.base import Base, open_base, report_left_out
from handtrain.model.export import export
from handtrain.model.formats.pickled import read_pickled

_UNET = "model.diffusion_model."


def import_checkpoint(
    checkpoint: Path, base: Place | str, gesture: str, out: Path, prediction_type: str | None = None
) -> Path:
    """Write a model folder with the UNet of a released-code checkpoint and everything else of the base.

    Its random fusion layer, 14 GB of weights without a seed, is left out: the model folder has fusion `none`.
    `model.*` is read, never the untrained copy in `model_ema.*`. Raises `UserError` for other files, and for an `out`
    that exists already.
    """
    require((gesture,))
    _require_new(out)
    opened = open_base(parse_model(str(base), "--base"), prediction_type=prediction_type)
    report_left_out(opened, True)
    unet = opened.denoiser()
    converted = _convert(_read(checkpoint), unet, checkpoint)
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (converted, unet.state_dict())]
    other = sorted(dict(shapes[0].items() ^ shapes[1].items()))
    if other:
        raise UserError(
            f"--checkpoint {checkpoint} does not fit --base {base}: {len(other)} weights differ, such as {other[0]}"
        )
    unet.load_state_dict(converted)
    export(out, opened, unet, _about(checkpoint, opened, gesture), None, safety_checker=True)
    return out


def _require_new(out: Path) -> None:
    """Raise `UserError` unless `out` can be written and nothing is there: the export replaces a folder of its name."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} exists already: remove it, or choose another place")
    require_writable_folder(out.parent, "--out")


def _read(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    if not checkpoint.is_file():
        raise UserError(f"--checkpoint {checkpoint} is not a file")
    try:
        content = read_pickled(checkpoint)
    except ValueError as error:
        raise UserError(f"--checkpoint {checkpoint} cannot be read as weights alone ({error})") from None
    weights: Any = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not any(name.startswith(_UNET) for name in weights):
        raise UserError(f"--checkpoint {checkpoint} has no {_UNET}*: it is not in the released code's layout")
    return {name: tensor for name, tensor in weights.items() if name.startswith(_UNET)}


def _convert(weights: Mapping[str, torch.Tensor], unet: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        convert: Any = convert_ldm_unet_checkpoint  # diffusers has no types
        converted: dict[str, torch.Tensor] = convert(dict(weights), dict(unet.config))
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"--checkpoint {checkpoint} does not fit the UNet of --base (at {error})") from None
    return converted


def _about(checkpoint: Path, base: Base, gesture: str) -> dict[str, Any]:
    return {
        "gesture": gesture,
        "gesture_phrase": gestures()[gesture].phrase,
        "feature": {"kind": "absolute", "values": [0.0] * 63},
        "fusion": {"kind": "none"},
        "lam": 1.0,
        "crop": "center",
        "resolution": base.resolution,
        "seed": 0,
        "training": {"imported": checkpoint.name},
    }
