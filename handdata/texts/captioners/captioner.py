"""The choice of a captioner: the protocol that all follow, their table, and the clean-up of captions."""

import importlib
import re
from collections.abc import Sequence
from typing import Any, Protocol

from handdata.errors import UserError
from handdata.recipe import CaptionOptions
from handdata.web.urls import public_url

# By kind: "module:class". `server` in the recipe's table makes a captioner one of the kind `server`.
CAPTIONERS = {
    "transformers": "handdata.texts.captioners.local:LocalCaptioner",
    "server": "handdata.texts.captioners.server:ServerCaptioner",
}

# BLIP-large's words for people that do not exist in English (reported by many of its users)
_INVENTED_WORDS = re.compile(r"\b(?:arafed|arafe|araffe|araffed|arafes|araffes|arafly|araffy)\b\s*", re.IGNORECASE)


class Captioner(Protocol):
    """A model that describes images. Its constructor takes the options, and raises `UserError` or `Unfinished`."""

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options with a branch on the Hub resolved to its commit; raise `UserError` for a gated model."""

    @staticmethod
    def fingerprint(options: CaptionOptions) -> dict[str, Any]:
        """Return as JSON the options that decide the captions, the model's revision included."""

    def describe(self, images: list[Any]) -> Sequence[str | None]:
        """Return a caption for each RGB image (h, w, 3), empty without words, None where time ran out."""

    def close(self) -> None:
        """Release the model's memory or connections."""


def captioner_class(options: CaptionOptions) -> Any:
    """Return the class of the captioner that the options name."""
    module, _, name = CAPTIONERS["server" if options.server else "transformers"].partition(":")
    return getattr(importlib.import_module(module), name)


def open_captioner(options: CaptionOptions) -> Captioner:
    """Load the captioner that the options name."""
    captioner: Captioner = captioner_class(options)(options)
    return captioner


def named_captioner(name: str, device: str = "auto") -> CaptionOptions:
    """Return the options of a captioner that a user named: a model, or `URL#MODEL` for one of a server.

    Raises `UserError` for a URL without a model.
    """
    if not name.startswith(("http://", "https://")):
        return CaptionOptions(model=name, device=device)  # type: ignore[arg-type]
    url, _, model = name.partition("#")
    if not model:
        raise UserError(f"--captioners {public_url(url)} names no model: write {public_url(url)}#MODEL")
    return CaptionOptions(model=model, server=url)


def clean(caption: str) -> str:
    """Return a caption on one line without BLIP-large's `arafed` and `araffe`, with the right article."""
    words = _INVENTED_WORDS.sub("", " ".join(caption.split())).strip()
    if words == caption.strip():
        return words
    words = re.sub(
        r"\b([Aa])n?\s+(?=(\w))", lambda match: match[1] + ("n " if match[2].lower() in "aeio" else " "), words
    )
    starts_bare = re.match(r"(?:man|woman|boy|girl|person|child|image|photo|picture|hand|view)\b", words)
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}" if starts_bare else words
