"""A tiny Z-Image of the real classes with random weights: 16 pixels, 8 x 8 latents."""

from pathlib import Path
from typing import Any

import torch

from tests.handtrain.tiny import SIDE

WIDTH, SHIFT, CELL_SHIFT = 16, 6.0, 0.1159
# as Qwen3's: without thoughts an empty one is begun, which ZImagePipeline does not ask for
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def write_z_base(folder: Path, seed: int = 0) -> Path:
    """Write a diffusers folder with the components of Z-Image."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(seed)
    tokenizer = write_qwen_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1024, 16, 16],
    )  # fmt: skip
    for name, weight in transformer.named_parameters():  # those that begin as nothing say nothing
        if "pad_token" in name:
            torch.nn.init.normal_(weight)
    vae = AutoencoderKL(
        sample_size=SIDE, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, scaling_factor=0.3611, shift_factor=CELL_SHIFT,
        use_quant_conv=False, use_post_quant_conv=False, force_upcast=True,
    )  # fmt: skip
    text_encoder = Qwen3Model(Qwen3Config(
        vocab_size=len(tokenizer) + 4, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}, tie_word_embeddings=True,
    ))  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    ZImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)
    return folder


def write_qwen_tokenizer(folder: Path) -> Any:
    """Write Qwen's tokenizer files with bytes for a vocabulary, and load them."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokens = [*bytes_to_unicode().values(), *special]
    made = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], additional_special_tokens=special[1:3],
        eos_token="<|im_end|>", chat_template=TEMPLATE, model_max_length=131_072,
    )  # fmt: skip
    made.save_pretrained(folder)
    return Qwen2Tokenizer.from_pretrained(folder)
