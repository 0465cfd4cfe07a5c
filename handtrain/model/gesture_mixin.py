"""Generate with a trained model: the gesture feature in the prompt of a pipeline, or poses for its UNet.

A published model contains this module in its one-file pipeline.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from handtrain.method.conditioning import PoseLayers, attach, guided, make_pose_layers
from handtrain.method.fusion import TokenFusion, mix
from handtrain.method.noise import seed_of
from handtrain.model.gesture_file import ABOUT_FILE, FUSION_FILE, POSE_FILE, Gesture, layer_weights

# ours by the class in model_index.json
_CLASSES = {"StableDiffusionPipeline": "Hand1000Pipeline", "StableDiffusionXLPipeline": "Hand1000XLPipeline"}


class WithGesture:
    """Mixes the gesture into the prompt of a diffusers pipeline: E = mu * T + (1 - mu) * F (paper, section 3).

    The class that derives from this one and a pipeline encodes prompts with `with_gesture`.
    """

    plain: type  # the pipeline's class
    text_sizes: tuple[int, int]  # tokens and width of an embedding
    gesture: Gesture | None = None
    pose_layers: PoseLayers | None = None  # of a model trained with poses, attached to the UNet
    _mu: float | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a model folder or a repository on the Hub.

        Raises `ValueError` if it was not trained by handtrain; of a model of another kind the message names the class.
        """
        names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        index = _file(pretrained_model_name_or_path, "model_index.json", hub)
        kind = index and json.loads(Path(index).read_text(encoding="utf-8")).get("_class_name")
        if kind and kind not in (cls.plain.__name__, cls.__name__):
            ours = _CLASSES.get(kind, kind)
            raise ValueError(f"{pretrained_model_name_or_path} is a {kind}: load it with {ours}")
        load: Any = super().from_pretrained  # type: ignore[misc] # diffusers has no types
        pipeline: Any = load(pretrained_model_name_or_path, **kwargs)
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            # transformers loads a float16 text encoder as float16, diffusers loads the UNet as float32
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module) and part.dtype != pipeline.unet.dtype:
                    torch.nn.Module.to(part, dtype=pipeline.unet.dtype)  # diffusers' own `to` prints a warning
        about = _file(pretrained_model_name_or_path, ABOUT_FILE, hub)
        if about is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no {ABOUT_FILE}: it was not trained by handtrain; "
                f"load it as a {cls.plain.__name__}"
            )
        pipeline.mix_in(Gesture.load(about, _file(pretrained_model_name_or_path, FUSION_FILE, hub)))
        if routes := pipeline.gesture.about.get("pose", {}).get("routes"):
            pipeline.pose_by(routes, _file(pretrained_model_name_or_path, POSE_FILE, hub))
        return pipeline

    def mix_in(self, gesture: Gesture) -> None:
        """Use a gesture from now on. Raises `ValueError` if its fusion layer does not fit the text encoder."""
        fusion = gesture.about["fusion"]
        if gesture.layer is not None and (fusion["tokens"], fusion["width"]) != self.text_sizes:
            raise ValueError(f"the fusion layer of {ABOUT_FILE} does not fit the text encoder of the model")
        self.gesture = gesture

    def pose_by(self, routes: list[str], file: str | None) -> None:
        """Use pose layers from now on. Raises `ValueError` if their file is missing, damaged or does not fit."""
        unet: Any = self.unet  # type: ignore[attr-defined]
        layers = make_pose_layers(unet, routes).requires_grad_(False)
        layers.load_state_dict(layer_weights(file, layers, POSE_FILE))
        attach(unet, layers)
        self.pose_layers = layers

    def __call__(
        self,
        *args: Any,
        mu: float | None = None,
        poses: torch.Tensor | str | None = "own",
        pose_guidance: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate images; the other arguments are those of the plain pipeline.

        `mu` in 0..1 is the text's share of the prompt embedding, by default the lam of the training; at 1 the gesture
        is left out. The negative prompt is encoded without the gesture. `prompt_embeds` are used unchanged.
        `poses` are those of the hands: `own` gives an image whose prompt has a gesture's phrase one of that gesture's,
        by the seed of its generator as `handtrain generate` does; a tensor (64,), or (n, 64) for each image, any other,
        such as those of `gesture.own_poses("ok")`; a row of NaN, or None for all, leaves the pose open. `pose_guidance`
        is their scale, by default the `guidance_scale`.
        """
        if mu is not None and not 0 <= mu <= 1:
            raise ValueError(f"mu is {mu}, it must be in 0 to 1")
        if isinstance(poses, str):
            if poses != "own":
                raise ValueError(f"poses are {poses!r}, they must be 'own', a tensor or None")
            poses = self._own_poses(args, kwargs)
        elif poses is not None and self.pose_layers is None:
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

    def _own_poses(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        """Return a pose (n, 64) for every image of a call, NaN where its prompt names no gesture; None if none does."""
        prompt = kwargs.get("prompt", args[0] if args else None)
        if self.pose_layers is None or self.gesture is None or prompt is None:
            return None
        prompts, each = [prompt] if isinstance(prompt, str) else prompt, int(kwargs.get("num_images_per_prompt", 1))
        texts = [text for text in prompts for _ in range(each)]
        seeds = _noise_seeds(kwargs.get("generator"), len(texts), torch.device(self.unet.device))  # type: ignore[attr-defined]
        poses = [self.gesture.pose_for(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        if all(pose is None for pose in poses):
            return None
        return torch.stack([torch.full((64,), torch.nan) if pose is None else pose for pose in poses])

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
        """Save a model folder with the gesture, which the plain pipeline loads too."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        folder = Path(save_directory)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["_class_name"] = self.plain.__name__
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


def _noise_seeds(generator: Any, count: int, device: torch.device) -> list[int]:
    """Return a number for each image: the seed of its generator, or one of the state of torch's own generator."""
    several = generator if isinstance(generator, list) else [generator]
    if len(several) == count and generator is not None:
        return [int(one.initial_seed()) for one in several]
    if several[0] is not None:
        first = int(several[0].initial_seed())
    else:
        state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        first = seed_of(state.numpy().tobytes())
    return [first + number for number in range(count)]


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
