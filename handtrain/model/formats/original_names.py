"""The names of weights in the original layout of Stable Diffusion 1, 2 and XL, derived from those of diffusers.

The original code numbers the UNet's blocks in one row (`input_blocks.4`), keeps the VAE's attention as convolutions,
and version 2 has OpenCLIP's text encoder, which joins query, key and value in one weight. XL has both text encoders.
Source: the modules of CompVis/stable-diffusion, Stability-AI/stablediffusion and Stability-AI/generative-models.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from handtrain.model.weights import Piece, Unusable

Config = dict[str, Any]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."

# XL: OpenAI's CLIP is the first embedder, OpenCLIP the second
_XL = {"text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
       "text_encoder_2": ("cond_stage_model.", "conditioner.embedders.1.")}  # fmt: skip

_UNET_TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
}  # fmt: skip
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_JOINED = ("q_proj", "k_proj", "v_proj")


def original(part: str, name: str, config: Config, xl: bool = False) -> Piece:
    """Return the place of a component's weight in a single file; `xl` for the layout of Stable Diffusion XL.

    `part` is unet, vae, text_encoder or text_encoder_2, `name` the weight's canonical name in diffusers or
    transformers. Raises `Unusable` for a weight that the original layout does not have.
    """
    piece = _BY_PART[part](name, config)
    return replace(piece, name=piece.name.replace(*_XL[part])) if xl and part in _XL else piece


def _unet(name: str, config: Config) -> Piece:
    module, kind = _split(name)
    if module in _UNET_TOP:
        return Piece(f"{UNET}{_UNET_TOP[module]}.{kind}")
    layers, row = config["layers_per_block"], None
    found = re.fullmatch(r"(down_blocks\.|up_blocks\.|mid_block)(\d*)\.([a-z]+)\.(\d+)\.(.+)", module)
    if found and isinstance(layers, int):
        side, block, group, number, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
        if side == "mid_block":
            row = {"resnets": f"middle_block.{2 * number}", "attentions": f"middle_block.{2 * number + 1}"}.get(group)
        elif side == "down_blocks.":
            at = 1 + block * (layers + 1)
            row = {
                "resnets": f"input_blocks.{at + number}.0", "attentions": f"input_blocks.{at + number}.1",
                "downsamplers": f"input_blocks.{at + layers}.0",
            }.get(group)  # fmt: skip
        else:
            at = block * (layers + 1)
            behind = 2 if "CrossAttn" in config["up_block_types"][block] else 1  # after the attention, if any
            row = {
                "resnets": f"output_blocks.{at + number}.0", "attentions": f"output_blocks.{at + number}.1",
                "upsamplers": f"output_blocks.{at + layers}.{behind}",
            }.get(group)  # fmt: skip
        if group == "resnets":
            rest = _UNET_RESNET.get(rest, "")
        elif group == "downsamplers":
            rest = "op"
    return Piece(f"{UNET}{row}.{rest}.{kind}") if row and rest else _unknown(name)


def _vae(name: str, config: Config) -> Piece:
    module, kind = _split(name)
    if module in ("quant_conv", "post_quant_conv"):
        return Piece(f"{VAE}{name}")
    side, _, inner = module.partition(".")
    if inner in ("conv_in", "conv_out", "conv_norm_out"):
        return Piece(f"{VAE}{side}.{inner.replace('conv_norm_out', 'norm_out')}.{kind}")
    if found := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", inner):
        square = found[1] != "group_norm" and kind == "weight"
        place = f"{side}.mid.attn_1.{_VAE_ATTENTION.get(found[1]) or _unknown(name)}.{kind}"
        return Piece(VAE + place, convolution=square)
    if found := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(\w+)", inner):
        return Piece(f"{VAE}{side}.mid.block_{int(found[1]) + 1}.{_shortcut(found[2])}.{kind}")
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(\w+)", inner)
    if not found:
        return _unknown(name)
    direction, block = found[1], int(found[2])
    if direction == "up":
        block = len(config["up_block_types"]) - 1 - block
    inside = f"block.{found[3]}.{_shortcut(found[4])}" if found[3] else f"{direction}sample.conv"
    return Piece(f"{VAE}{side}.{direction}.{block}.{inside}.{kind}")


def _text_encoder(name: str, config: Config) -> Piece:
    if config.get("hidden_act") != "gelu":  # OpenAI's CLIP of version 1 has quick_gelu
        return Piece(CLIP + name)
    if name == "text_projection.weight":
        return Piece(f"{OPEN_CLIP}text_projection", transposed=True)
    if name in _OPEN_CLIP:
        return Piece(OPEN_CLIP + _OPEN_CLIP[name])
    module, kind = _split(name)
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", module)
    if not found:
        return _unknown(name)
    block, inner = f"{OPEN_CLIP}transformer.resblocks.{found[1]}", found[2]
    if inner.rpartition(".")[2] in _JOINED:
        return Piece(f"{block}.attn.in_proj_{kind}", _JOINED.index(inner.rpartition(".")[2]))
    return Piece(f"{block}.{_OPEN_CLIP_LAYER.get(inner) or _unknown(name)}.{kind}")


_BY_PART: dict[str, Callable[[str, Config], Piece]] = {
    "unet": _unet, "vae": _vae, "text_encoder": _text_encoder, "text_encoder_2": _text_encoder,
}  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    module, _, kind = name.rpartition(".")
    return module, kind


def _shortcut(name: str) -> str:
    return "nin_shortcut" if name == "conv_shortcut" else name


def _unknown(name: str) -> NoReturn:
    raise Unusable(f"its weight {name} has no name in the original layout of Stable Diffusion")
