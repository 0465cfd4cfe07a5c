"""Generate with a trained model: a Stable Diffusion with the gesture feature in its prompt, or with poses.

A published model contains `fusion`, `conditioning` and this file as its `pipeline.py`, so no other module of ours is
imported.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline  # type: ignore[attr-defined]

from handtrain.method.conditioning import POSE_NUMBERS, PoseLayers, attach, guided, make_pose_layers
from handtrain.method.fusion import FlatFusion, TokenFusion, mix

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
            layer.load_state_dict(_layer_weights(fusion_file, layer, FUSION_FILE))
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


def _layer_weights(file: str | None, layer: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
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


class Hand1000Pipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline with the gesture mixed into the prompt: E = mu * T + (1 - mu) * F (paper, section 3)."""

    gesture: Gesture | None = None
    pose_layers: PoseLayers | None = None  # of a model trained with poses, attached to the UNet
    _mu: float | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "Hand1000Pipeline":
        """Load a model folder or a repository on the Hub. Raises `ValueError` if it was not trained by handtrain."""
        load: Any = super().from_pretrained  # diffusers has no types
        loaded: Any = load(pretrained_model_name_or_path, **kwargs)
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            # transformers loads a float16 text encoder as float16, diffusers loads the UNet as float32
            for part in (loaded.vae, loaded.text_encoder, loaded.safety_checker):
                if part is not None and part.dtype != loaded.unet.dtype:
                    torch.nn.Module.to(part, dtype=loaded.unet.dtype)  # diffusers' own `to` prints a warning
        pipeline: Hand1000Pipeline = loaded
        names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        about = _file(pretrained_model_name_or_path, ABOUT_FILE, hub)
        if about is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no {ABOUT_FILE}: it was not trained by handtrain; "
                "load it as a StableDiffusionPipeline"
            )
        pipeline.mix_in(Gesture.load(about, _file(pretrained_model_name_or_path, FUSION_FILE, hub)))
        if routes := pipeline.gesture.about.get("pose", {}).get("routes"):  # type: ignore[union-attr]
            pipeline.pose_by(routes, _file(pretrained_model_name_or_path, POSE_FILE, hub))
        return pipeline

    def mix_in(self, gesture: Gesture) -> None:
        """Use a gesture from now on. Raises `ValueError` if its fusion layer does not fit the text encoder."""
        fusion, text = gesture.about["fusion"], self.text_encoder.config  # type: ignore[attr-defined]
        sizes = (text.max_position_embeddings, text.hidden_size)
        if gesture.layer is not None and (fusion["tokens"], fusion["width"]) != sizes:
            raise ValueError(f"the fusion layer of {ABOUT_FILE} does not fit the text encoder of the model")
        self.gesture = gesture

    def pose_by(self, routes: list[str], file: str | None) -> None:
        """Use pose layers from now on. Raises `ValueError` if their file is missing, damaged or does not fit."""
        unet: Any = self.unet  # type: ignore[attr-defined]
        layers = make_pose_layers(unet, routes).requires_grad_(False)
        layers.load_state_dict(_layer_weights(file, layers, POSE_FILE))
        attach(unet, layers)
        self.pose_layers = layers

    def __call__(
        self,
        *args: Any,
        mu: float | None = None,
        poses: torch.Tensor | None = None,
        pose_guidance: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate images; the other arguments are StableDiffusionPipeline's.

        `mu` in 0..1 is the text's share of the prompt embedding, by default the lam of the training; at 1 the gesture
        is left out. The negative prompt is encoded without the gesture. `prompt_embeds` are used unchanged.
        `poses` (64,) or one for each image (n, 64) are those of the hands, such as `gesture.own_poses("ok")`; a row of
        NaN, or none at all, leaves the pose open. `pose_guidance` is their scale, by default the `guidance_scale`.
        """
        if mu is not None and not 0 <= mu <= 1:
            raise ValueError(f"mu is {mu}, it must be in 0 to 1")
        if poses is not None and self.pose_layers is None:
            raise ValueError("this model was trained without poses: leave poses out")
        self._mu = mu
        unet: Any = self.unet  # type: ignore[attr-defined]
        drawing: Any = nullcontext()
        if self.pose_layers is not None:
            self.pose_layers.to(unet.device)
            guidance = kwargs.setdefault("guidance_scale", 2.0)  # as `handtrain generate`
            if poses is not None:
                every = _one_per_image(poses, _images(args, kwargs)).to(unet.device)
                drawing = guided(self.pose_layers, every, guidance, pose_guidance)
        try:
            with drawing:
                return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._mu = None

    def encode_prompt(
        self,
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> Any:
        """Encode as StableDiffusionPipeline does, with the gesture mixed into the prompt's embedding."""
        if prompt_embeds is None:
            encode: Any = super().encode_prompt  # type: ignore[misc]
            text, _ = encode(prompt, device, 1, False, lora_scale=lora_scale, clip_skip=clip_skip)
            prompt_embeds = self.with_gesture(text, self._mu)
        return super().encode_prompt(  # type: ignore[misc]
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale,
            clip_skip,
        )

    def with_gesture(self, text: torch.Tensor, mu: float | None = None) -> torch.Tensor:
        """Return E (n, tokens, width) of plain text embeddings T; `mu` as in the call.

        The flat layer is drawn once for all prompts that are not in the cache (half a minute at full size).
        """
        if self.gesture is None or self.gesture.layer is None:
            return text
        share = self.gesture.about["lam"] if mu is None else mu
        if share == 1:
            return text
        mixed = mix(text.float().cpu(), self.gesture.fuse(text), share)
        return mixed.to(text)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save a model folder with the gesture, which StableDiffusionPipeline loads too."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        folder = Path(save_directory)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["_class_name"] = StableDiffusionPipeline.__name__
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if self.gesture is None:
            return
        from safetensors.torch import save_file

        # The hashes are those of the files that were loaded.
        about = {name: value for name, value in self.gesture.about.items() if name not in ("files", "sha256_of_this")}
        (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

        if isinstance(self.gesture.layer, TokenFusion):
            save_file(self.gesture.layer.state_dict(), folder / FUSION_FILE)
        if self.pose_layers is not None:
            weights = {name: tensor.cpu() for name, tensor in self.pose_layers.state_dict().items()}
            save_file(weights, folder / POSE_FILE)


def _one_per_image(poses: Any, count: int) -> torch.Tensor:
    every = torch.as_tensor(poses, dtype=torch.float32).reshape(-1, 64)
    if count % len(every):
        raise ValueError(f"{len(every)} poses for {count} images: give one, or one for each image")
    return every.repeat_interleave(count // len(every), 0)


def _images(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the number of images of a call."""
    prompt = kwargs.get("prompt", args[0] if args else None)
    several: Any = kwargs.get("prompt_embeds") if prompt is None else prompt
    count = 1 if isinstance(prompt, str) else len(several)
    return count * int(kwargs.get("num_images_per_prompt", 1))


def _file(model: Any, name: str, hub: dict[str, Any]) -> str | None:
    if Path(model).is_dir():
        return str(Path(model) / name) if (Path(model) / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return str(hf_hub_download(str(model), name, **hub))
    except EntryNotFoundError:
        return None
