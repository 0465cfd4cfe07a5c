"""A trained model and its base, which draw the same prompt from the same noise."""

from pathlib import Path
from typing import Any, cast

import torch

from handdata.errors import UserError
from handdata.huggingface import parse_model
from handdata.machine import choose_device
from handtrain.app.drawing import NO_POSE, OWN_POSE, Drawing
from handtrain.generation.generate import embed_plainly, load_pipeline
from handtrain.generation.poses import pose_of_photograph
from handtrain.generation.sampling import guidance_of
from handtrain.model.about import require_whole
from handtrain.model.base import Base, open_base
from handtrain.model.gesture_file import ABOUT_FILE
from handtrain.options import GenerateOptions


class Models:
    """Both models on a device, loaded once."""

    def __init__(self, model: str, base: str | None, device: str = "auto") -> None:
        """Load a trained model, and the base that it names or `base`.

        Raises `UserError` for a model that handtrain did not train, or a base that is not known.
        """
        opened = open_base(parse_model(model, "--model"), "--model")
        if opened.single_file or not (opened.folder / ABOUT_FILE).exists():
            raise UserError(f"--model {model} was not trained by handtrain: name the folder RUN/model")
        self.about = require_whole(opened.folder, "--model")
        place = base or str(self.about.get("training", {}).get("base", {}).get("place", ""))
        if not place:
            raise UserError(f"--model {model} does not name its base: give --base")
        chosen, options = choose_device(device), GenerateOptions()
        before = open_base(parse_model(place, "--base"), "--base")
        self.name, self.base_name = model, place
        self._opened, self._before = opened, before
        self._side = opened.check_resolution(self.about.get("resolution", 0))  # pixels
        self._tuned = load_pipeline(opened, self.about, options, chosen)
        self._base = load_pipeline(before, {}, options, chosen)
        self.guidance = guidance_of("pose" in self.about)
        self.mu = float(self.about["lam"])

    @property
    def phrases(self) -> dict[str, str]:
        """The phrase of every gesture of the model, by name."""
        table = self.about.get("gestures") or {self.about["gesture"]: {"phrase": self.about["gesture_phrase"]}}
        return {name: entry["phrase"] for name, entry in table.items()}

    @property
    def poses(self) -> list[str]:
        """The choices of a pose: left open, then the model's own, such as `palm 2`; empty without pose layers."""
        if "pose" not in self.about:
            return []
        table = self.about["gestures"].items()
        return [OWN_POSE, NO_POSE, *(f"{name} {n + 1}" for name, entry in table for n in range(len(entry["poses"])))]

    def draw(self, asked: Drawing) -> tuple[Any, Any]:
        """Return the pictures of the base and of the trained model, both of the side that the model was trained with.

        Raises `ValueError` for an impossible request, `UserError` for a photograph without a hand.
        """
        common = {"num_inference_steps": asked.steps, "height": self._side, "width": self._side}
        more: dict[str, Any] = {"mu": asked.mu} if self._opened.backbone.TUNED_PIPELINE else {}
        if self.poses:
            more |= {"poses": self._pose(asked), "pose_guidance": asked.pose_guidance}
        pictures = [
            pipeline(
                **_words(base, pipeline, asked), generator=torch.Generator().manual_seed(asked.seed), **common, **extra
            ).images[0]
            for base, pipeline, extra in ((self._before, self._base, {}), (self._opened, self._tuned, more))
        ]
        return pictures[0], pictures[1]

    def _pose(self, asked: Drawing) -> torch.Tensor | str | None:
        """Return the requested pose (64,) or `own`, None if it is left open."""
        if asked.photograph is not None:
            return torch.from_numpy(pose_of_photograph(Path(asked.photograph))[0])
        if asked.pose in (OWN_POSE, NO_POSE):
            return "own" if asked.pose == OWN_POSE else None
        gesture, _, number = asked.pose.rpartition(" ")
        return cast(torch.Tensor, self._tuned.gesture.own_poses(gesture)[int(number) - 1])


def _words(base: Base, pipeline: Any, asked: Drawing) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for the prompt and its guidance."""
    if base.backbone.TUNED_PIPELINE:
        return {"prompt": asked.prompt, "guidance_scale": asked.guidance}
    texts = [embed_plainly(base, pipeline, [text]) for text in (asked.prompt, "")]
    positive, negative = (each.to(pipeline.device, pipeline.text_encoder.dtype) for each in texts)
    return base.backbone.call(positive, negative, asked.guidance, 0.0)
