"""Captioners and CLIP of the real transformers classes with few and random weights, in the real ones' folder layout."""

import json
from pathlib import Path
from typing import Any

WORDS = """[PAD] [CLS] [SEP] [UNK] [MASK] a man woman boy girl person in front of the wall with red blue green black
white shirt hat hand standing sitting on chair room kitchen holding phone cup and large small""".split()
SIZE = 32  # px
FOLLOWING = ("idefics3", "qwen2_vl")  # types of SmolVLM and Qwen2-VL, which follow a request


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a model of this kind, a key of `local.FAMILIES` or one of FOLLOWING, and return its folder."""
    import torch

    torch.manual_seed(seed)
    makers = {"blip": _blip, "blip-2": _blip2, "paligemma": _paligemma, "vision-encoder-decoder": _vit_gpt2}
    makers |= {"florence2": _florence2, "idefics3": _idefics3, "qwen2_vl": _qwen2_vl}
    model = makers[kind](folder)
    for parameter in model.parameters():  # large random weights: captions differ from image to image
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.0)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    return folder


def _word_tokenizer(folder: Path, **special: str) -> Any:
    """Return a tokenizer with the vocabulary WORDS, split at blanks, and save it where the processor looks for it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"} | special
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return fast


def _blip(folder: Path) -> Any:
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer).save_pretrained(folder)
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(WORDS),
        encoder_hidden_size=16,
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
        **narrow,
    )
    vision = BlipVisionConfig(image_size=SIZE, patch_size=16, **narrow)
    return BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))


def _blip2(folder: Path) -> Any:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    tokenizer = _word_tokenizer(folder)
    processor = Blip2Processor(BlipImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer, num_query_tokens=4)
    processor.save_pretrained(folder)
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = len(tokenizer)
    text = OPTConfig(
        vocab_size=words, hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = Blip2VisionConfig(image_size=SIZE, patch_size=16, **narrow)
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=Blip2QFormerConfig(vocab_size=words, encoder_hidden_size=16, **narrow).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config)


def _paligemma(folder: Path) -> Any:
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )

    tokenizer = _word_tokenizer(folder)
    images = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    images.image_seq_length = (SIZE // 16) ** 2
    PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = GemmaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        head_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **narrow,
    )
    config = PaliGemmaConfig(
        text_config=text.to_dict(),
        vision_config=SiglipVisionConfig(image_size=SIZE, patch_size=16, projection_dim=16, **narrow).to_dict(),
        projection_dim=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return PaliGemmaForConditionalGeneration(config)


def _vit_gpt2(folder: Path) -> Any:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    tokenizer = _word_tokenizer(folder)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    vision = ViTConfig(
        image_size=SIZE, patch_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    text = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return VisionEncoderDecoderModel(config)


def _florence2(folder: Path) -> Any:
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        Florence2VisionConfig,
    )

    tokenizer = _word_tokenizer(folder, extra_special_tokens={"image_token": "<image>"})
    images = CLIPImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)
    images.image_seq_length = 2  # one place, and their mean
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1), patch_size=(7, 3, 3, 3), embed_dim=(8, 8, 16, 16), num_heads=(2, 2, 2, 2),
        num_groups=(2, 2, 2, 2), window_size=4, projection_dim=16, max_position_embeddings=8,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    return Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=tokenizer.image_token_id
        )
    )


_TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'] + ' ' }}{% for part in turn['content'] %}"
    "{{ IMAGE if part['type'] == 'image' else part['text'] }}{{ ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'person' }}{% endif %}"
)


def _idefics3(folder: Path) -> Any:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )

    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = _word_tokenizer(folder, additional_special_tokens=marks)
    images = Idefics3ImageProcessor(size={"longest_edge": SIZE}, max_image_size={"longest_edge": SIZE})
    Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=_TEMPLATE.replace("IMAGE", "'<image>'")
    ).save_pretrained(folder)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=0, **vision
    )
    config = Idefics3Config(
        vision_config={**vision, "image_size": SIZE, "patch_size": 8},
        text_config=text.to_dict(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return Idefics3ForConditionalGeneration(config)


def _qwen2_vl(folder: Path) -> Any:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _word_tokenizer(folder, additional_special_tokens=marks)
    limits = {"size": {"shortest_edge": SIZE * SIZE, "longest_edge": 4 * SIZE * SIZE}, "patch_size": 8}
    Qwen2VLProcessor(
        Qwen2VLImageProcessor(**limits),
        tokenizer,
        Qwen2VLVideoProcessor(**limits),
        chat_template=_TEMPLATE.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'"),
    ).save_pretrained(folder)
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2,
            "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config)


def make_clip(folder: Path) -> Path:
    """Write a CLIPModel of a few thousand random weights with its processor, as the real one is; return its folder."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(code) for code in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layer,
            "vocab_size": len(words),
            "max_position_embeddings": 77,
            "eos_token_id": 1,
            "bos_token_id": 0,
        },
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
