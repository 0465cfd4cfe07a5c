"""A captioner behind an OpenAI-compatible server with a vision model, such as vLLM or llama-server."""

import io
from functools import partial
from typing import Any

from handdata.recipe import CaptionOptions, flag
from handdata.texts.answers import Conversation
from handdata.texts.captioners.captioner import clean
from handdata.texts.chat import Ask
from handdata.texts.openai_format import extra_fields
from handdata.texts.openai_server import ServerModel


class ServerCaptioner:
    """A vision model on a server: one request per image, `parallel` of them at once."""

    def __init__(self, options: CaptionOptions) -> None:
        """Open a client. Raises `UserError` for a malformed URL, key or extra body."""
        self._model = ServerModel(
            options.server, options.model, options.key_variable, options.parallel, options.timeout,
            partial(flag, "caption"), extra=extra_fields(options.extra_body, "caption"),
        )  # fmt: skip
        self._prompt, self._max_tokens = options.prompt, options.max_new_tokens

    @staticmethod
    def at_commit(options: CaptionOptions) -> CaptionOptions:
        """Return the options, whose extra body must be a JSON object: `UserError` else."""
        extra_fields(options.extra_body, "caption")
        return options

    @staticmethod
    def fingerprint(options: CaptionOptions) -> dict[str, Any]:
        names = ("model", "prompt", "max_new_tokens", "extra_body")
        return {"kind": "server", **{name: getattr(options, name) for name in names}}

    def describe(self, images: list[Any]) -> list[str | None]:
        """Return a caption for each RGB image (h, w, 3), None where the server did not answer in time."""
        asks = [Ask((("user", self._prompt),), image=_png(image)) for image in images]
        answers = Conversation(self._model, self._max_tokens).answers(asks)
        return [None if answer.stop == "timeout" else clean(answer.text) for answer in answers]

    def close(self) -> None:
        self._model.close()


def _png(image: Any) -> bytes:
    """Return an image (h, w, 3) as a PNG file: the server sees the stored pixels, without a second loss."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
