"""Answer many questions at once with a GGUF file through llama.cpp.

`llama_cpp.Llama` decodes one sequence at a time. Here the beginning that all questions share is evaluated once and
copied (`llama_memory_seq_cp`), and several sequences advance together, one token each, in one `llama_batch`.
The answers depend on the questions and their order, not on what was asked before: each call starts with an empty
memory. (Batched arithmetic rounds differently from single, so the same question in other company may be answered
differently.)
"""

import ctypes
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handdata.chat import Answer, Ask, Message
from handdata.errors import Unfinished, UserError
from handdata.resources import cores

PROMPT_TOKENS = 768  # a question's own part, beyond what all share, may be this long
_BATCH = 1024  # tokens evaluated in one call


@dataclass
class _Sequence:
    """One answer that is being written."""

    place: int  # among the questions
    slot: int  # llama.cpp's number of the sequence
    pending: list[int]  # tokens still to be evaluated
    position: int  # of the next one
    sampler: Any
    output: int = -1  # where in the batch its last token is, -1: not in this batch
    answer: list[int] = field(default_factory=list)


class LlamaModel:
    """A model from a GGUF file, with the chat template stored in it."""

    def __init__(self, path: Path, parallel: int = 16, threads: int = 0, gpu_layers: int = -1) -> None:
        """Load the model and make room for `parallel` sequences. `threads` 0: every core that this process may use.

        Raises `UserError` if the file is missing, is no GGUF, or carries no chat template.
        """
        # before OpenMP is loaded: its waiting threads spin, which made decoding five times slower on a busy machine
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            import llama_cpp
        except ImportError:
            raise UserError("rewriting needs llama-cpp-python: pip install 'hand1000[data]'") from None
        if not path.is_file():
            raise UserError(f"there is no model file {path}: give the path of a GGUF file (--model)")
        self._c: Any = llama_cpp
        _silence(llama_cpp)
        self.name, self.parallel = path.stem, parallel
        self._threads = threads or cores()
        self._context: Any = None
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise UserError(f"{path} is not a GGUF file that llama.cpp {llama_cpp.__version__} can load")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        if not template:
            raise UserError(f"{path} holds no chat template: use an instruction-tuned model")
        self._template = self._formatter(template.decode("utf-8"))

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]:
        """Return the answers to the questions, in their order."""
        prompts = [self.tokens(ask.messages) for ask in asks]
        shared = _shared_beginning(prompts)
        answers: list[Answer | None] = [None] * len(asks)
        waiting = deque[int]()
        for place, prompt in enumerate(prompts):
            if len(prompt) - shared > PROMPT_TOKENS:
                answers[place] = Answer("", "prompt")
            else:
                waiting.append(place)
        if waiting:
            self._prepare(prompts[waiting[0]][:shared], max_tokens)
        free, running = list(range(self.parallel, 0, -1)), list[_Sequence]()
        while waiting or running:
            while waiting and free:
                place = waiting.popleft()
                running.append(self._start(place, free.pop(), prompts[place], shared, asks[place]))
            self._evaluate(running)
            for sequence in [one for one in running if one.output >= 0]:
                answers[sequence.place] = done = self._advance(sequence, max_tokens)
                if done:
                    self._end(sequence)
                    running.remove(sequence)
                    free.append(sequence.slot)
        return [answer for answer in answers if answer is not None]

    def tokens(self, messages: tuple[Message, ...]) -> list[int]:
        """Return a conversation in the model's chat template, ready for the assistant's turn, as tokens."""
        turns = [{"role": role, "content": content} for role, content in messages]
        text = self._template(messages=turns).prompt.encode("utf-8")
        bos = self._piece(self._c.llama_vocab_bos(self._vocabulary), special=True)
        add_special = not (bos and text.startswith(bos))  # a template may write the begin token itself
        room = (self._c.llama_token * (len(text) + 8))()
        count = self._c.llama_tokenize(self._vocabulary, text, len(text), room, len(room), add_special, True)
        assert count >= 0, f"{len(text)} bytes became {-count} tokens"
        return list(room[:count])

    def close(self) -> None:
        """Release the model and its memory."""
        if self._context:
            self._c.llama_free(self._context)
        if self._model:
            self._c.llama_model_free(self._model)
        self._context = self._model = None

    def _formatter(self, template: str) -> Any:
        """Return the template as a function, rendered by Jinja's sandbox: it comes with a foreign file."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        tokens = (self._c.llama_vocab_eos(self._vocabulary), self._c.llama_vocab_bos(self._vocabulary))
        eos, bos = (self._piece(token, special=True).decode("utf-8") for token in tokens)
        return Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)

    def _prepare(self, beginning: list[int], max_tokens: int) -> None:
        """Empty the memory, or make it where it is too small, and evaluate the shared beginning as sequence 0."""
        c = self._c
        size = len(beginning) + self.parallel * (PROMPT_TOKENS // 2 + max_tokens) + PROMPT_TOKENS
        if not self._context or c.llama_n_ctx(self._context) < size:
            if self._context:
                c.llama_free(self._context)
            options = c.llama_context_default_params()
            options.n_ctx, options.n_batch, options.n_seq_max = size, _BATCH, self.parallel + 1
            options.n_threads = options.n_threads_batch = self._threads
            options.kv_unified = True  # sequences share the cells of the common beginning
            self._context = c.llama_init_from_model(self._model, options)
            if not self._context:
                raise Unfinished(f"there is no memory for {size} tokens of context: lower --parallel")
        self._memory = c.llama_get_memory(self._context)
        c.llama_memory_clear(self._memory, True)
        for start in range(0, len(beginning), _BATCH):
            part = beginning[start : start + _BATCH]
            self._decode([(token, start + n, 0, False) for n, token in enumerate(part)])

    def _start(self, place: int, slot: int, prompt: list[int], shared: int, ask: Ask) -> _Sequence:
        self._c.llama_memory_seq_cp(self._memory, 0, slot, -1, -1)
        return _Sequence(place, slot, prompt[shared:], shared, self._sampler(ask))

    def _end(self, sequence: _Sequence) -> None:
        self._c.llama_memory_seq_rm(self._memory, sequence.slot, -1, -1)
        self._c.llama_sampler_free(sequence.sampler)

    def _evaluate(self, running: list[_Sequence]) -> None:
        """Evaluate what is pending, as much as fits one batch; note whose last token was among it."""
        batch: list[tuple[int, int, int, bool]] = []
        for sequence in running:
            part = sequence.pending[: _BATCH - len(batch)]
            del sequence.pending[: len(part)]
            batch += [(token, sequence.position + n, sequence.slot, False) for n, token in enumerate(part)]
            sequence.position += len(part)
            sequence.output = -1
            if part and not sequence.pending:
                batch[-1] = (*batch[-1][:3], True)
                sequence.output = len(batch) - 1
        self._decode(batch)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Evaluate rows of (token, position, sequence, whether its logits are wanted)."""
        c = self._c
        batch = c.llama_batch_init(len(rows), 0, 1)
        try:
            batch.n_tokens = len(rows)
            for n, (token, position, slot, wanted) in enumerate(rows):
                batch.token[n], batch.pos[n], batch.logits[n] = token, position, wanted
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, slot
            code = c.llama_decode(self._context, batch)
        finally:
            c.llama_batch_free(batch)
        if code == 1:
            raise Unfinished("llama.cpp's context is full: lower --parallel")
        assert code == 0, f"llama_decode returned {code} for {len(rows)} tokens"

    def _advance(self, sequence: _Sequence, max_tokens: int) -> Answer | None:
        """Choose the next token; return the answer when it is complete."""
        token = self._c.llama_sampler_sample(sequence.sampler, self._context, sequence.output)
        if self._c.llama_vocab_is_eog(self._vocabulary, token):
            return Answer(self._text(sequence.answer), "end", len(sequence.answer))
        sequence.answer.append(token)
        if len(sequence.answer) >= max_tokens:
            return Answer(self._text(sequence.answer), "length", len(sequence.answer))
        sequence.pending = [token]
        return None

    def _sampler(self, ask: Ask) -> Any:
        c = self._c
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        if ask.grammar:
            grammar = c.llama_sampler_init_grammar(self._vocabulary, ask.grammar.encode("utf-8"), b"root")
            assert grammar, f"llama.cpp cannot read the grammar {ask.grammar!r}"
            c.llama_sampler_chain_add(chain, grammar)
        if ask.temperature > 0:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(ask.temperature))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(ask.seed))
        else:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_greedy())
        return chain

    def _text(self, tokens: list[int]) -> str:
        return b"".join(self._piece(token) for token in tokens).decode("utf-8", errors="replace").strip()

    def _piece(self, token: int, special: bool = False) -> bytes:
        if token < 0:
            return b""
        room = ctypes.create_string_buffer(256)
        length = self._c.llama_token_to_piece(self._vocabulary, token, room, len(room), 0, special)
        return room.raw[: max(length, 0)]


def gpu_supported() -> bool:
    """Return whether the installed llama.cpp was built for a GPU (CMAKE_ARGS=-DGGML_CUDA=on)."""
    import llama_cpp

    return bool(llama_cpp.llama_supports_gpu_offload())


def idle_gpu() -> str | None:
    """Return what to say where a machine has an NVIDIA GPU that the installed llama.cpp cannot use; else None."""
    if not Path("/dev/nvidia0").exists() or gpu_supported():
        return None
    return (
        "this machine has a GPU, but llama.cpp was built without support for it; to mend that: "
        "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
    )


def _shared_beginning(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts begin with; each keeps at least its last one for itself."""
    first, last = min(prompts), max(prompts)  # what the first and the last in order share, all share
    limit = min(map(len, prompts)) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)


_quiet: Any = None  # llama.cpp keeps the address, so the callback must live on


def _silence(llama_cpp: Any) -> None:
    global _quiet
    _quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
