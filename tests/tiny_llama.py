"""A GGUF file with LLaMA 3's vocabulary and turn format and a tiny network with the answer that a test needs."""

import base64
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from handdata import assets

WIDTH = 32
SPECIAL = {  # LLaMA 3's model card
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
}
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def make(path: Path, answer: list[str], template: str | None = TEMPLATE) -> Path:
    """Write a model that answers every question with these tokens. The last one repeats unless it ends the turn."""
    import gguf

    words = _vocabulary()
    ids = {word: n for n, word in enumerate(words)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([_printable(word) if n < 128000 else word.decode() for n, word in enumerate(words)])
    writer.add_token_types([gguf.TokenType.NORMAL if n < 128000 else gguf.TokenType.CONTROL for n in range(len(words))])
    writer.add_token_merges(_merges())
    writer.add_bos_token_id(SPECIAL["<|begin_of_text|>"])
    writer.add_eos_token_id(SPECIAL["<|eot_id|>"])
    writer.add_add_bos_token(True)
    if template:
        writer.add_chat_template(template)
    for name, values in _weights(len(words), [ids[word.encode()] for word in answer], ids[b"\n\n"]).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(vocabulary: int, answer: list[int], start: int) -> dict[str, np.ndarray]:
    """Make token n of the answer the one that follows token n - 1: each pair shares a direction of the embedding."""
    embedding = np.random.default_rng(0).normal(0, 0.01, (vocabulary, WIDTH)).astype(np.float32)
    output = np.zeros((vocabulary, WIDTH), np.float32)
    for direction, (before, after) in enumerate(zip([start, *answer], [*answer, answer[-1]], strict=True)):
        embedding[before, direction] = 1.0
        output[after, direction] = 10.0
    tensors = {
        "token_embd.weight": embedding,
        "output.weight": output,
        "output_norm.weight": np.ones(WIDTH, np.float32),
    }
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (32, 32), "ffn_up": (32, 32), "ffn_down": (32, 32)}
    tensors |= {f"blk.0.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return tensors | {f"blk.0.{name}.weight": np.ones(WIDTH, np.float32) for name in ("attn_norm", "ffn_norm")}


@cache
def _vocabulary() -> list[bytes]:
    """Return LLaMA 3's 128,256 tokens in order."""
    lines = assets.path("llama3-tokenizer").read_bytes().splitlines()
    words = [base64.b64decode(line.split()[0]) for line in lines]
    special = {n: name for name, n in SPECIAL.items()}
    return [*words, *(special.get(n, f"<|reserved_special_token_{n}|>").encode() for n in range(128000, 128256))]


@cache
def _merges() -> list[str]:
    """Return the byte-pair merges of LLaMA 3's tokens in order of rank."""
    words = _vocabulary()[:128000]
    rank = {word: n for n, word in enumerate(words)}
    merges = []
    for n, word in enumerate(words):
        if len(word) > 1:
            parts = [word[i : i + 1] for i in range(len(word))]
            while len(parts) > 2:
                pairs = [rank.get(a + b, n) for a, b in pairwise(parts)]
                best = min(pairs)
                if best >= n:
                    break
                at = pairs.index(best)
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            if len(parts) == 2:
                merges.append(f"{_printable(parts[0])} {_printable(parts[1])}")
    return merges


def _printable(word: bytes) -> str:
    from handdata.texts.clip_tokens import _BYTES

    return "".join(_BYTES[byte] for byte in word)
