"""A tiny Stable Diffusion XL of the real classes with random weights: 16 pixels, 8 x 8 latents."""

from pathlib import Path
from typing import Any

import torch

from tests.handtrain.tiny import SIDE, write_tokenizer

WIDTH_1, WIDTH_2, POOLED, SIZE_WIDTH = 8, 16, 12, 4


def write_xl_base(folder: Path, seed: int = 0) -> Path:
    """Write a diffusers folder with the components of Stable Diffusion XL."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    second = write_tokenizer(folder.parent / f"{folder.name}-tokenizer-2")
    second.pad_token = "!"  # as in the real one, whose padding is another token than the first one's
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH_1 + WIDTH_2, attention_head_dim=(1, 2), transformer_layers_per_block=(1, 2),
        norm_num_groups=4, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH, projection_class_embeddings_input_dim=POOLED + 6 * SIZE_WIDTH,
    )  # fmt: skip
    vae = AutoencoderKL(
        sample_size=SIDE, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, scaling_factor=0.13025, force_upcast=True,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    StableDiffusionXLPipeline(
        vae, CLIPTextModel(_text(tokenizer, WIDTH_1, 2)),
        CLIPTextModelWithProjection(_text(tokenizer, WIDTH_2, 3, projection_dim=POOLED, hidden_act="gelu")),
        tokenizer, second, unet, scheduler, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _text(tokenizer: Any, width: int, layers: int, **more: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **more,
    )  # fmt: skip
