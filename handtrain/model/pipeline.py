"""Generate with a trained Stable Diffusion 1 or 2: `handtrain.Hand1000Pipeline`.

A published model contains this module, and those of ours that it imports, as its `pipeline.py`.
"""

from typing import Any

import torch
from diffusers import StableDiffusionPipeline  # type: ignore[attr-defined]

from handtrain.model.gesture_mixin import WithGesture


class Hand1000Pipeline(WithGesture, StableDiffusionPipeline):
    """StableDiffusionPipeline with the gesture mixed into the prompt, and with poses."""

    plain = StableDiffusionPipeline

    @property
    def text_sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Tokens and width of a text embedding."""
        text = self.text_encoder.config  # type: ignore[attr-defined]
        return text.max_position_embeddings, text.hidden_size

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
