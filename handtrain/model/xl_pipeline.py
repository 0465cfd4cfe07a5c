"""Generate with a trained Stable Diffusion XL: `handtrain.Hand1000XLPipeline`.

A published model contains this module, and those of ours that it imports, as its `pipeline.py`.
"""

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline  # type: ignore[attr-defined]

from handtrain.model.gesture_mixin import WithGesture


class Hand1000XLPipeline(WithGesture, StableDiffusionXLPipeline):
    """StableDiffusionXLPipeline with the gesture mixed into the prompt, and with poses."""

    plain = StableDiffusionXLPipeline

    @property
    def text_sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Tokens and width of a text embedding, which both text encoders make together."""
        first, second = self.text_encoder.config, self.text_encoder_2.config  # type: ignore[attr-defined]
        return first.max_position_embeddings, first.hidden_size + second.hidden_size

    def encode_prompt(
        self,
        prompt: Any,
        prompt_2: Any = None,
        device: Any = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Any = None,
        negative_prompt_2: Any = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> Any:
        """Encode as StableDiffusionXLPipeline does, with the gesture mixed into the prompt's embedding."""
        encode: Any = super().encode_prompt  # type: ignore[misc]
        if prompt_embeds is None:
            text, _, pooled, _ = encode(prompt, prompt_2, device, 1, False, lora_scale=lora_scale, clip_skip=clip_skip)
            prompt_embeds = self.with_gesture(text, self._mu)
            pooled_prompt_embeds = pooled if pooled_prompt_embeds is None else pooled_prompt_embeds
        return encode(
            prompt,
            prompt_2,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            negative_prompt_2,
            prompt_embeds,
            negative_prompt_embeds,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
            lora_scale,
            clip_skip,
        )
