"""hand1000.json of a model folder: read, checked, and compared with the files that it lists."""

from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.files import sha256_of
from handdata.readers import require_json
from handtrain.model.gesture_file import ABOUT_FILE, check_about
from handtrain.model.weights import Unusable, find_weights
from handtrain.seals import intact

About = dict[str, Any]


def read_about(folder: Path, option: str) -> About:
    """Return hand1000.json of a model folder. Raises `UserError` if it is missing, damaged or has impossible values."""
    file = folder / ABOUT_FILE
    about: About = require_json(file, option)
    try:
        check_about(about)
        if not intact(about):
            raise ValueError("its content does not match its own sha256")
        _check_training(about.get("training", {}))
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{option} {file} is damaged ({error}): export or fetch the model again") from None
    return about


def fault_of(folder: Path, about: About) -> str | None:
    """Return the first file of a model folder that is missing or differs from hand1000.json, None if all are equal."""
    for name, sha256 in about.get("files", {}).items():
        try:
            if sha256_of(folder / name) != sha256:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing"
    return None


def require_whole(folder: Path, option: str) -> About:
    """Return hand1000.json after reading all files that it lists. Raises `UserError` if one differs."""
    about = read_about(folder, option)
    fault = fault_of(folder, about)
    if fault:
        raise UserError(f"{option} {folder}: {fault}: run the command that made the model again, or fetch it again")
    return about


def model_fault(folder: Path) -> str | None:
    """Return why a folder that training has written is not a whole model, None if it is one."""
    try:
        about = read_about(folder, "--out")
        if "files" not in about:  # of older versions, which stored no hashes
            from handtrain.model.base import BACKBONES  # imports diffusers, which other models do not need here

            for part, network in BACKBONES["StableDiffusionPipeline"].NETWORKS.items():
                find_weights(folder / part, network.stem)
    except UserError:
        return f"{ABOUT_FILE} cannot be used"
    except Unusable as error:
        return str(error)
    return fault_of(folder, about)


def trained_with(folder: Path, config: dict[str, Any]) -> bool:
    """Return whether a folder is a whole model that was trained with a configuration, that of run.json."""
    if not (folder / ABOUT_FILE).is_file() or model_fault(folder):
        return False
    training = read_about(folder, "--out").get("training", {})
    return {name: training.get(name) for name in config} == config


_TEXT, _COUNT, _NUMBER = (str,), (int,), (int, float)
_SOURCE = {"place": _TEXT}
_TRAINING = {
    "dataset": _SOURCE,
    "base": _SOURCE,
    "preset": _TEXT,
    "images": _COUNT,
    "without_hand": _COUNT,
    "versions": {},
    "options": {
        "embedding_steps": _COUNT,
        "embedding_lr": _NUMBER,
        "unet_epochs": _COUNT,
        "unet_batch": _COUNT,
        "unet_lr": _NUMBER,
        "order": _TEXT,
        "seed": _COUNT,
    },
}  # what a card shows of a training


def _check_training(training: Any) -> None:
    """Raise `ValueError` unless the description of a training has what a model card shows of it."""
    if not isinstance(training, dict):
        raise ValueError("training is not an object")
    for part in {"base", "dataset"} & training.keys():
        _check(part, training[part], _SOURCE)
    if "imported" in training:
        _check("imported", training["imported"], _TEXT)
    elif training:
        _check("training", training, _TRAINING)


def _check(name: str, value: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        for key, kind in wanted.items():
            if key not in value:
                raise ValueError(f"{name} lacks {key}")
            _check(f"{name}.{key}", value[key], kind)
    elif isinstance(value, bool) or not isinstance(value, wanted) or (isinstance(value, str) and len(value) > 4096):
        raise ValueError(f"{name} has an impossible value")
    elif not isinstance(value, str) and not abs(value) < 1e18:
        raise ValueError(f"{name} is too large")
