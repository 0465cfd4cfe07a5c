"""The gesture of a trained model: hand1000.json, checked, and the layers that it describes.

A published model contains this module in its one-file pipeline.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from handtrain.method.conditioning import POSE_NUMBERS
from handtrain.method.fusion import FlatFusion, TokenFusion
from handtrain.method.noise import seed_of

ABOUT_FILE, FUSION_FILE, POSE_FILE = "hand1000.json", "fusion.safetensors", "pose.safetensors"
NEWEST_FORMAT = 2  # of hand1000.json; 2 has poses and several gestures
NUMBERS = 63  # of the gesture feature: 21 landmarks x (x, y, z)


@dataclass
class Gesture:
    """The gesture of a trained model, from hand1000.json and fusion.safetensors."""

    about: dict[str, Any]
    feature: torch.Tensor  # (63,)
    layer: FlatFusion | TokenFusion | None  # None: no gesture is mixed in
    fused: dict[bytes, torch.Tensor] = field(default_factory=dict)  # F by T, of the flat layer

    @classmethod
    def load(cls, about_file: str, fusion_file: str | None) -> "Gesture":
        """Read the two files. Raises `ValueError` if they are damaged, or this torch cannot reproduce the layer."""
        try:
            about = json.loads(Path(about_file).read_text(encoding="utf-8-sig"))
            check_about(about)
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{about_file} is damaged ({error})") from None
        fusion, feature = about["fusion"], torch.tensor(about["feature"]["values"], dtype=torch.float32)
        layer: FlatFusion | TokenFusion | None = None
        if fusion["kind"] == "flat":
            layer = FlatFusion(fusion["seed"], fusion["tokens"], fusion["width"], len(feature))
            layer.require_same_stream(fusion["first_block_sha256"])
        elif fusion["kind"] == "token":
            layer = TokenFusion(fusion["width"], len(feature))
            layer.load_state_dict(layer_weights(fusion_file, layer, FUSION_FILE))
            layer.requires_grad_(False)
        return cls(about, feature, layer)

    def own_poses(self, gesture: str | None = None) -> torch.Tensor:
        """Return the poses (n, 64) of a gesture in training; none for a model without pose layers.

        `gesture` may be left out for a model of one. Raises `ValueError` if the model does not have it.
        """
        table = self.about.get("gestures", {})
        name = gesture or (next(iter(table)) if len(table) == 1 else None)
        if table and name not in table:
            known = ", ".join(table)
            raise ValueError(f"the model has no poses of {name}: choose a gesture of {known}" if name else
                             f"the model has several gestures: choose one of {known}")  # fmt: skip
        lines = table.get(name, {}).get("poses", [])
        return torch.tensor([[float(value) for value in line.split()] for line in lines]).reshape(-1, 64)

    def pose_for(self, prompt: str, noise_seed: int) -> torch.Tensor | None:
        """Return the pose (64,) of an image of a prompt that names a gesture, by the seed of its noise; None without.

        `handtrain generate` chooses the same.
        """
        for name, entry in self.about.get("gestures", {}).items():
            if entry["phrase"] in prompt and len(poses := self.own_poses(name)):
                return poses[seed_of("pose", noise_seed) % len(poses)]
        return None

    def fuse(self, text: torch.Tensor) -> torch.Tensor:
        """Return F (n, tokens, width) of T in float32 on the CPU; the flat layer's results are cached."""
        assert self.layer is not None
        plain = text.detach().float().cpu()
        if isinstance(self.layer, TokenFusion):
            fused: torch.Tensor = self.layer(plain, self.feature)
            return fused
        keys = [embedding.numpy().tobytes() for embedding in plain]
        missing = list(dict.fromkeys(key for key in keys if key not in self.fused))
        if missing:
            results = self.layer(plain[[keys.index(key) for key in missing]], self.feature)
            self.fused.update(zip(missing, results, strict=True))
        return torch.stack([self.fused[key] for key in keys])


def check_about(about: Any) -> None:
    """Raise `ValueError` for the first entry of hand1000.json without which, or with which, no image can be made."""
    if not isinstance(about, dict):
        raise ValueError("it is not a JSON object")
    values, fusion = (_entry(about, name, dict) for name in ("feature", "fusion"))
    _check_format(about)
    numbers = _entry(values, "values", list)
    if len(numbers) != NUMBERS or not all(_is_number(value, 1e6) for value in numbers):
        raise ValueError(f"the gesture feature is not a list of {NUMBERS} finite numbers")
    if not _is_number(about.get("lam"), 1) or about["lam"] < 0:
        raise ValueError("lam is not a number in 0 to 1")
    for name in ("crop",) if len(about.get("gestures", {})) > 1 else ("gesture", "gesture_phrase", "crop"):
        _entry(about, name, str)
    if about["crop"] not in ("center", "hand"):
        raise ValueError("crop is neither center nor hand")
    if not 0 < _entry(about, "resolution", int) <= 8192:
        raise ValueError("resolution is not a number of pixels")
    if _entry(values, "kind", str) not in ("absolute", "normalised"):
        raise ValueError("the kind of the feature is unknown")
    _check_fusion(fusion)
    files = about.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise ValueError("files is not a list of hashes")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("files names a path outside of the folder")


def _check_format(about: dict[str, Any]) -> None:
    """Raise `ValueError` for a format that is unknown, and for gestures and poses that are not those of format 2."""
    version = about.get("format", 1)
    if type(version) is not int or version < 1:
        raise ValueError("format is not a number")
    if version > NEWEST_FORMAT:
        raise ValueError(f"format {version} needs a newer version of hand1000")
    if version == 1 and not {"gestures", "pose"} & about.keys():
        return
    table = _entry(about, "gestures", dict)
    if not table or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError("gestures is not an object of gestures")
    for entry in table.values():
        _entry(entry, "phrase", str)
        for line in _entry(entry, "poses", list) if "pose" in about else ():
            _check_pose(line)
    if "pose" in about:
        routes = _entry(_entry(about, "pose", dict), "routes", list)
        if not routes or not all(route in ("map", "time", "tokens") for route in routes):
            raise ValueError("the routes of the pose are unknown")


def _check_pose(line: Any) -> None:
    try:
        numbers = [float(word) for word in line.split()]
    except (AttributeError, ValueError):
        raise ValueError("a pose is not a line of numbers") from None
    if len(numbers) != POSE_NUMBERS or not all(abs(number) <= 1e6 for number in numbers):
        raise ValueError(f"a pose is not a line of {POSE_NUMBERS} finite numbers")


def _check_fusion(fusion: dict[str, Any]) -> None:
    kind = _entry(fusion, "kind", str)
    if kind not in ("flat", "token", "none"):
        raise ValueError("the kind of the fusion is unknown")
    for name in ("tokens", "width") if kind != "none" else ():
        if not 0 < _entry(fusion, name, int) <= 4096:
            raise ValueError(f"the {name} of the fusion are not those of a text encoder")
    if kind == "flat":
        _entry(fusion, "first_block_sha256", str)
        if not 0 <= _entry(fusion, "seed", int) < 2**63:
            raise ValueError("the seed of the fusion is not below 2^63")


def _entry(entries: dict[str, Any], name: str, kind: type) -> Any:
    value = entries.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or has another type")
    return value


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def layer_weights(file: str | None, layer: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a layer, stored as `name`. Raises `ValueError` if their file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file is None:
        raise ValueError(f"the model has no {name}, which its {ABOUT_FILE} requires")
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged ({error})") from None
    wanted = {part: tensor.shape for part, tensor in layer.state_dict().items()}
    whole = all(bool(torch.isfinite(tensor).all()) for tensor in weights.values() if tensor.is_floating_point())
    if {part: tensor.shape for part, tensor in weights.items()} != wanted or not whole:
        raise ValueError(f"{file} does not hold the layers that {ABOUT_FILE} describes")
    return weights
