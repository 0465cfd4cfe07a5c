"""A tiny Stable Diffusion of the real classes with random weights, and a tiny dataset in the published layout."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handdata.rows.schema import features

GESTURES = ["call", "four", "like", "mute", "ok", "palm"]
PHRASE = "making phone call hand gesture"
SIDE = 16  # pixels; 8 x 8 latents
WIDTH = 16  # of a text embedding


def write_base(folder: Path, seed: int = 0, safety_checker: bool = False) -> Path:
    """Write a diffusers folder with the components of Stable Diffusion 1.4, thousands of times smaller."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        sample_size=SIDE,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    checker, extractor = _safety_checker() if safety_checker else (None, None)
    StableDiffusionPipeline(
        vae,
        CLIPTextModel(text_config),
        tokenizer,
        unet,
        scheduler,
        checker,
        extractor,
        requires_safety_checker=safety_checker,
    ).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> Any:
    """Write CLIP's tokenizer files with bytes for a vocabulary, and load them."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def write_dataset(folder: Path, train: int = 5, validation: int = 2, gesture: str = "call", longer: int = 0) -> Path:
    """Write a dataset folder as `handdata publish` does: card with configurations, one Parquet file per split.

    Every row's text is `longer` words longer than that of the row before.
    """
    from datasets import Dataset

    splits = {"train": train, "validation": validation}
    for split, count in splits.items():
        rows = [row(f"{split}-{number:03d}", number, gesture, longer) for number in range(count)]
        path = folder / "data" / gesture / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {name: [values[name] for values in rows] for name in features(GESTURES)}
        Dataset.from_dict(columns, features=features(GESTURES)).to_parquet(path)
    files = "".join(f"  - split: {split}\n    path: data/{gesture}/{split}-*.parquet\n" for split in splits)
    card = f"---\nconfigs:\n- config_name: {gesture}\n  data_files:\n{files}---\n# A tiny dataset\n"
    (folder / "README.md").write_text(card)
    return folder


def row(image_id: str, number: int, gesture: str = "call", longer: int = 0) -> dict[str, Any]:
    """Return one row: a drawn wide picture with a hand-sized bright box and landmarks inside it."""
    generator = np.random.default_rng(number + 1000 * (image_id > "u"))
    width, height = 28, 20
    pixels = generator.integers(0, 120, (height, width, 3), dtype=np.uint8)
    left, top = 2 + number % 12, 4
    pixels[top : top + 8, left : left + 7] = 220
    data = _jpeg(pixels)
    box = [left / width, top / height, 7 / width, 8 / height]
    hand = generator.random((21, 3)) * [box[2], box[3], 0.05] + [box[0], box[1], -0.02]
    return {
        "image": {"bytes": data, "path": None},
        "text": f"a person {PHRASE} number {number}" + " more" * (longer * number),
        "caption": "a person",
        "gesture": gesture,
        "gesture_phrase": PHRASE,
        "image_id": image_id,
        "subject": f"{number:016x}",
        "hagrid_split": "train",
        "width": width,
        "height": height,
        "orig_width": width,
        "orig_height": height,
        "bboxes": [box],
        "labels": [gesture],
        "hand_landmarks": [hand.tolist()],
        "handedness": ["Right" if number % 2 else "Left"],
        "handedness_score": [0.9],
        "gesture_hand": 0,
        "landmarks_in_box": 1.0,
        "rewrite": "llm",
        "checks": [],
        "source": "drawn",
        "member": f"{gesture}/{image_id}.jpg",
        "crc32": 0,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95)
    return file.getvalue()


def _safety_checker() -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8)
    return StableDiffusionSafetyChecker(config), CLIPImageProcessor(size=16, crop_size=16)
