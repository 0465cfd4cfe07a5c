"""Count tokens as CLIP's text encoder does, from its vocabulary file, without a model hub or a framework."""

import gzip
import html
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

from handdata import assets

CONTEXT = 77  # CLIP's context length, begin and end included (A. Radford et al., 2021)
VOCABULARY = "clip-vocabulary"  # name in manifests/assets.toml
_MERGES = 49152 - 256 - 2  # merges that CLIP uses: its vocabulary without bytes and the two special tokens
_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class ClipTokens:
    """CLIP's byte-pair encoding, reduced to counting."""

    def __init__(self, vocabulary: Path) -> None:
        """Read the merges, one pair per line in order of rank after a heading line."""
        import regex

        lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
        pairs = (tuple(line.split()) for line in lines[1 : _MERGES + 1])
        self._rank = {pair: rank for rank, pair in enumerate(pairs)}
        self._split = regex.compile(_SPLIT, regex.IGNORECASE)
        self._count = cache(self._count_word)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, begin and end included, without truncation."""
        text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
        words = self._split.findall(" ".join(text.split()).lower())
        return 2 + sum(map(self._count, words))

    def _count_word(self, word: str) -> int:
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return 1
        parts = [_BYTES[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._rank.get(pair, _MERGES))
            if best not in self._rank:
                break
            merged: list[str] = []
            for part in parts:  # every occurrence of the pair, from left to right
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return len(parts)


@cache
def clip_tokens() -> ClipTokens:
    """Return a counter with the vocabulary file that `handdata assets` fetches."""
    return ClipTokens(assets.path(VOCABULARY))


def _byte_letters() -> list[str]:
    """Return the printable letter for each byte: itself if printable, else one from 256 on (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


_BYTES = _byte_letters()
