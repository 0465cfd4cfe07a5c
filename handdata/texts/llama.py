"""Answer many questions at once with a GGUF file through llama.cpp.

`llama_cpp.Llama` decodes one sequence at a time. Here the common prefix of all questions is evaluated once for many
sequences, which then advance together (`llama_batch.Decoder`). On a CPU the questions are distributed over several
decoders, which run in parallel with fewer threads each: two threads of one decoder wait for each other all the time.
The answers depend on the questions and their order, not on earlier questions, nor on the number of cores.
(Batched arithmetic rounds differently: the same question in another batch may get another answer.)
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from handdata.errors import UserError
from handdata.machine import cores
from handdata.recipe import flag
from handdata.texts.chat import Answer, Ask, Message
from handdata.texts.chat_template import ChatTemplate
from handdata.texts.llama_batch import PROMPT_TOKENS, Decoder, piece, shared_beginning

DECODERS = 4  # greatest number of groups of questions on a CPU, each of at least _QUESTIONS
_QUESTIONS = 16


class LlamaModel:
    """A model from a GGUF file, with the chat template stored in it or another one."""

    room = 1024  # tokens for an answer after reasoning, which the templates of most models can switch off

    def __init__(
        self, path: Path, parallel: int = 16, threads: int = 0, gpu_layers: int = -1, template: str | None = None
    ) -> None:
        """Load the model. Each decoder has room for `parallel` sequences; `threads` 0 means all available cores.

        `template` is the text of a chat template in place of the file's. Raises `UserError` if the file is missing, is
        not a GGUF file, or has no chat template that can be used.
        """
        llama_cpp = _llama_cpp()
        if not path.is_file():
            raise UserError(f"model file {path} does not exist: give a GGUF file with {flag('rewrite', 'model')}")
        self._c = llama_cpp
        _silence(llama_cpp)
        self.name, self.parallel = path.stem, parallel
        self._threads = threads or cores()
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise UserError(f"{path} is not a GGUF file that llama.cpp {llama_cpp.__version__} can load")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._template = self._chat_template(path, template)
        self._on_gpu = gpu_layers != 0 and gpu_supported()
        self._decoders = [Decoder(llama_cpp, self._model, parallel) for _ in range(DECODERS)]

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]:
        """Return the answers to the questions, in their order."""
        prompts = [self.tokens(ask.messages) for ask in asks]
        shared = shared_beginning(prompts) if prompts else 0
        short = [place for place, prompt in enumerate(prompts) if len(prompt) - shared <= PROMPT_TOKENS]
        count = 1 if self._on_gpu else max(1, min(DECODERS, len(short) // _QUESTIONS))
        groups = [short[start::count] for start in range(count)]
        at_once = min(count, self._threads)
        free = SimpleQueue[Decoder]()  # no more contexts than threads that use them
        for decoder in self._decoders[:at_once]:
            free.put(decoder)

        def work(group: list[int]) -> list[Answer]:
            decoder = free.get()
            try:
                return decoder.answer(
                    [prompts[place] for place in group], shared, [asks[place] for place in group], max_tokens,
                    self._threads // at_once,
                )  # fmt: skip
            finally:
                free.put(decoder)

        answers = [Answer("", "prompt")] * len(asks)
        with ThreadPoolExecutor(at_once) as pool:
            for group, group_answers in zip(groups, pool.map(work, groups), strict=True):
                for place, answer in zip(group, group_answers, strict=True):
                    answers[place] = answer
        return answers

    def tokens(self, messages: tuple[Message, ...]) -> list[int]:
        """Return a conversation in the model's chat template, ready for the assistant's turn, as tokens."""
        text = self._template(messages).encode("utf-8")
        bos = piece(self._c, self._vocabulary, self._c.llama_vocab_bos(self._vocabulary), special=True)
        add_special = not (bos and text.startswith(bos))  # the template may include the begin token
        room = (self._c.llama_token * (len(text) + 8))()
        count = self._c.llama_tokenize(self._vocabulary, text, len(text), room, len(room), add_special, True)
        assert count >= 0, f"{len(text)} bytes became {-count} tokens"
        return list(room[:count])

    def close(self) -> None:
        """Release the model and its memory."""
        for decoder in self._decoders:
            decoder.close()
        self._decoders = []
        if self._model:
            self._c.llama_model_free(self._model)
        self._model = None

    def _chat_template(self, path: Path, given: str | None) -> ChatTemplate:
        """Return the template given, else the file's. Jinja's sandbox renders it: it comes from a foreign file."""
        stored = self._c.llama_model_chat_template(self._model, None)
        if given is None and not stored:
            option = flag("rewrite", "template")
            raise UserError(
                f"{path} has no chat template: give its file with {option}, or use an instruction-tuned model"
            )
        source = stored.decode("utf-8", errors="replace") if given is None else given
        tokens = (self._c.llama_vocab_bos(self._vocabulary), self._c.llama_vocab_eos(self._vocabulary))
        bos, eos = (piece(self._c, self._vocabulary, token, True).decode("utf-8", "replace") for token in tokens)
        return ChatTemplate(source, str(path) if given is None else "--template", bos, eos)


def gpu_supported() -> bool:
    """Return whether the installed llama.cpp was built for a GPU (CMAKE_ARGS=-DGGML_CUDA=on)."""
    llama_cpp = _llama_cpp()
    return bool(llama_cpp.llama_supports_gpu_offload())


def idle_gpu() -> str | None:
    """Return a warning if the machine has an NVIDIA GPU that the installed llama.cpp cannot use, else None."""
    if not Path("/dev/nvidia0").exists() or gpu_supported():
        return None
    return (
        "this machine has a GPU, but llama.cpp was built without support for it; to rebuild it: "
        "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
    )


def _llama_cpp() -> Any:
    """Import and return the module. Raises `UserError` if it is not installed."""
    # before OpenMP is loaded: its waiting threads spin, which made decoding five times slower on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import llama_cpp
    except ImportError:
        raise UserError("rewriting needs llama-cpp-python: pip install 'hand1000[data]'") from None
    return llama_cpp


_quiet: Any = None  # llama.cpp keeps the callback's address, so it must not be garbage-collected


def _silence(llama_cpp: Any) -> None:
    global _quiet
    _quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
