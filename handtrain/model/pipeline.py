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

from handtrain.method.conditioning import PoseLayers, attach, guided, make_pose_layers
from handtrain.method.fusion import FlatFusion, TokenFusion, mix

ABOUT_FILE, FUSION_FILE, POSE_FILE = "hand1000.json", "fusion.safetensors", "pose.safetensors"
NEWEST_FORMAT = 2  # of hand1000.json; 2 has poses and several gestures


@dataclass
class Gesture:
    """The gesture of a trained model, from hand1000.json and fusion.safetensors."""

    about: dict[str, Any]
    feature: torch.Tensor  # (63,)
    layer: FlatFusion | TokenFusion | None  # None: no gesture is mixed in
    fused: dict[bytes, torch.Tensor] = field(default_factory=dict)  # F by T, of the flat layer

    @classmethod
    def load(cls, about_file: str, fusion_file: str | None) -> "Gesture":
        """Read the two files. Raises `ValueError` if this torch cannot reproduce the flat layer."""
        about = json.loads(Path(about_file).read_text(encoding="utf-8"))
        if about.get("format", 1) > NEWEST_FORMAT:
            raise ValueError(f"{about_file} has format {about['format']}: it needs a newer version of hand1000")
        fusion, feature = about["fusion"], torch.tensor(about["feature"]["values"], dtype=torch.float32)
        layer: FlatFusion | TokenFusion | None = None
        if fusion["kind"] == "flat":
            layer = FlatFusion(fusion["seed"], fusion["tokens"], fusion["width"], len(feature))
            layer.require_same_stream(fusion["first_block_sha256"])
        elif fusion["kind"] == "token":
            from safetensors.torch import load_file

            assert fusion_file is not None, f"{about_file} needs {FUSION_FILE}"
            layer = TokenFusion(fusion["width"], len(feature))
            layer.load_state_dict(load_file(fusion_file))
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
            loaded.to(dtype=loaded.unet.dtype)
        pipeline: Hand1000Pipeline = loaded
        names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        about = _file(pretrained_model_name_or_path, ABOUT_FILE, hub)
        if about is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no {ABOUT_FILE}: it was not trained by handtrain; "
                "load it as a StableDiffusionPipeline"
            )
        pipeline.gesture = Gesture.load(about, _file(pretrained_model_name_or_path, FUSION_FILE, hub))
        if routes := pipeline.gesture.about.get("pose", {}).get("routes"):
            file = _file(pretrained_model_name_or_path, POSE_FILE, hub)
            if file is None:
                raise ValueError(f"{pretrained_model_name_or_path} lacks {POSE_FILE}: copy the whole model folder")
            pipeline.pose_layers = _pose_layers(loaded.unet, routes, file)
        return pipeline

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
        if self.pose_layers is not None:
            self.pose_layers.to(unet.device)
        drawing: Any = nullcontext()
        if self.pose_layers is not None and poses is not None:
            every = _one_per_image(poses, _images(args, kwargs)).to(unet.device)
            drawing = guided(self.pose_layers, every, kwargs.get("guidance_scale", 7.5), pose_guidance)
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
        (folder / ABOUT_FILE).write_text(json.dumps(self.gesture.about, indent=2) + "\n", encoding="utf-8")
        from safetensors.torch import save_file

        if isinstance(self.gesture.layer, TokenFusion):
            save_file(self.gesture.layer.state_dict(), folder / FUSION_FILE)
        if self.pose_layers is not None:
            weights = {name: tensor.cpu() for name, tensor in self.pose_layers.state_dict().items()}
            save_file(weights, folder / POSE_FILE)


def _pose_layers(unet: Any, routes: list[str], file: str) -> PoseLayers:
    from safetensors.torch import load_file

    layers = make_pose_layers(unet, routes)
    layers.load_state_dict(load_file(file))
    layers.requires_grad_(False)
    attach(unet, layers)
    return layers


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
