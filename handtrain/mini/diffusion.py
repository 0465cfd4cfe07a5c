"""The mini Stable Diffusion: a UNet of 3.8 million weights on 16 x 16 latents, and the text encoder that guides it."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handtrain.method.diffusion import noise_prediction_loss
from handtrain.mini.loop import Schedule, fit
from handtrain.mini.pictures import SIZE, World
from handtrain.mini.tokenizers import TOKENS
from handtrain.model.base import open_base

SCHEDULE = Schedule("diffusion", steps=4500, batch=32, lr=8e-4, warmup=200, average=0.999)
# A second schedule with meaningless words in the captions: prompts contain the gesture's phrase, captions do not.
SECOND = Schedule("diffusion-words", steps=1600, batch=32, lr=6e-4, warmup=100, average=0.999)
# A third schedule, like the second.
THIRD = Schedule("diffusion-last", steps=1900, batch=32, lr=6e-4, warmup=100, average=0.999)
SCHEDULES = (SCHEDULE, SECOND, THIRD)
WIDTH = 96  # of a text embedding
_STRANGE = 0.5  # share of captions with strange words in the later schedules
_MOST_STRANGE = 6  # tokens
_DROPPED = 0.1  # share of pictures trained without their caption, for classifier-free guidance
# Deviation of the noise's mean. Without it the image's mean remains visible at the last timestep, and the network reads
# a wall's colour from it and not from the caption; but sampling starts from a mean without that information.
_OFFSET = 0.1


@dataclass(frozen=True)
class Parts:
    """The networks that are trained together, with tokenizer and noise schedule."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Any

    def module(self) -> torch.nn.Module:
        """Return the trained networks as one module."""
        return torch.nn.ModuleDict({"unet": self.unet, "text_encoder": self.text_encoder})


def make(tokenizer: Any) -> Parts:
    """Return the untrained networks."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    unet: Any = UNet2DConditionModel  # diffusers has no types
    schedule: Any = DDPMScheduler
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Parts(
        unet(
            sample_size=SIZE // 4,
            block_out_channels=(80, 96, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        ).to(memory_format=torch.channels_last),
        CLIPTextModel(text),
        tokenizer,
        schedule(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
    )


def train(parts: Parts, vae: Any, world: World, folder: Path, schedules: tuple[Schedule, ...] = SCHEDULES) -> None:
    """Train UNet and text encoder on the noise-prediction loss, one schedule after the other."""
    if not schedules:
        return
    latents = _encoded(vae, world)  # (2, n, 4, 16, 16): as drawn, mirrored
    timesteps = parts.schedule.config.num_train_timesteps
    strange = False

    def loss(rows: list[int], mirrored: list[bool], generator: torch.Generator) -> torch.Tensor:
        chosen = latents[torch.tensor(mirrored).long(), torch.tensor(rows)]
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        captions = ["" if rng.random() < _DROPPED else text for text in world.captions(rows, mirrored)]
        noise = torch.randn(chosen.shape, generator=generator)
        noise += _OFFSET * torch.randn((*chosen.shape[:2], 1, 1), generator=generator)
        # one timestep from each of as many equal intervals as there are pictures: less noise in the loss. The root
        # favours late timesteps, where the words decide.
        spread = ((torch.arange(len(rows)) + torch.rand(len(rows), generator=generator)) / len(rows)).sqrt()
        tokens = _tokens(parts.tokenizer, captions)
        if strange:
            tokens = torch.stack([_with_strange(caption, parts.tokenizer, rng) for caption in tokens])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings = parts.text_encoder(tokens).last_hidden_state
            losses = noise_prediction_loss(
                parts.unet, parts.schedule, chosen, noise, (spread * timesteps).long(), embeddings
            )
        return losses.mean()

    for schedule in schedules:
        strange = schedule.name != SCHEDULE.name
        fit(schedule, parts.module(), loss, len(world), folder)


def load(parts: Parts, vae: Any, folder: Path) -> None:
    """Load a finished model's weights into the networks. Raises `UserError` for a model with other tokens."""
    base = open_base(folder, "--begin")
    if base.tokenizer().get_vocab() != parts.tokenizer.get_vocab():
        raise UserError(f"--begin {folder} has other tokens than these pictures: draw them with its seed and counts")
    for network, trained in (
        (parts.unet, base.denoiser()),
        (parts.text_encoder, base.network("text_encoder")),
        (vae, base.vae()),
    ):
        network.load_state_dict(trained.state_dict())
    vae.register_to_config(scaling_factor=base.scaling())


def save(parts: Parts, vae: Any, folder: Path) -> None:
    """Write a diffusers folder in 16-bit floats, with the file layout of Stable Diffusion 1.4."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    config = {name: parts.schedule.config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    make: Any = StableDiffusionPipeline
    scheduler: Any = PNDMScheduler
    pipeline = make(
        vae,
        parts.text_encoder,
        parts.tokenizer,
        parts.unet,
        scheduler(**config, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    pipeline.to(torch.float32)


def _tokens(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    tokens: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


def _with_strange(tokens: torch.Tensor, tokenizer: Any, rng: random.Random) -> torch.Tensor:
    """Return the tokens (77,) of a caption, half of the time with a few random tokens inserted."""
    end = int((tokens == tokenizer.eos_token_id).nonzero()[0])
    count = rng.randint(1, _MOST_STRANGE) if rng.random() < _STRANGE else 0
    if end < 2 or end + count >= len(tokens):
        return tokens
    place = rng.randint(1, end)
    words = torch.tensor([rng.randrange(tokenizer.bos_token_id) for _ in range(count)], dtype=tokens.dtype)
    return torch.cat([tokens[:place], words, tokens[place:]])[: len(tokens)]


def _encoded(vae: Any, world: World) -> torch.Tensor:
    both = []
    with torch.no_grad():
        for mirrored in (False, True):
            means = []
            for start in range(0, len(world), 64):
                rows = list(range(start, min(start + 64, len(world))))
                images = world.images(rows, [mirrored] * len(rows))
                means.append(vae.encode(images).latent_dist.mean)
            both.append(torch.cat(means))
    return torch.stack(both) * float(vae.config.scaling_factor)
