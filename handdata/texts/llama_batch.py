"""Advance several answers together in one context of llama.cpp, one token each in a `llama_batch`."""

import ctypes
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from handdata.errors import Unfinished
from handdata.recipe import flag
from handdata.texts.chat import Answer, Ask

PROMPT_TOKENS = 768  # greatest length of a question without the common prefix
_BATCH = 1024  # tokens evaluated in one call


@dataclass
class _Sequence:
    """An answer in progress."""

    place: int  # index of the question
    slot: int  # llama.cpp's number of the sequence
    pending: list[int]  # tokens to be evaluated
    position: int  # of the first pending token
    sampler: Any
    output: int = -1  # index in the batch of its last token, -1: not in this batch
    answer: list[int] = field(default_factory=list)


class Decoder:
    """A context of a loaded model with room for `parallel` sequences. Each call starts with an empty KV cache."""

    def __init__(self, c: Any, model: Any, parallel: int) -> None:
        """Take the module `llama_cpp` and its model; the first call creates the context."""
        self._c, self._model, self._parallel = c, model, parallel
        self._vocabulary = c.llama_model_get_vocab(model)
        self._context: Any = None

    def answer(
        self, prompts: list[list[int]], shared: int, asks: list[Ask], max_tokens: int, threads: int
    ) -> list[Answer]:
        """Return the answers to prompts (as tokens) with a common prefix of `shared` tokens, in their order.

        The prefix is evaluated once and copied (`llama_memory_seq_cp`).
        """
        answers: list[Answer | None] = [None] * len(prompts)
        waiting = deque(range(len(prompts)))
        free, running = list(range(self._parallel, 0, -1)), list[_Sequence]()
        if waiting:
            self._prepare(prompts[0][:shared], max_tokens, threads)
        while waiting or running:
            while waiting and free:
                place = waiting.popleft()
                running.append(self._start(place, free.pop(), prompts[place], shared, asks[place]))
            self._evaluate(running)
            for sequence in [sequence for sequence in running if sequence.output >= 0]:
                answers[sequence.place] = answer = self._advance(sequence, max_tokens)
                if answer:
                    self._end(sequence)
                    running.remove(sequence)
                    free.append(sequence.slot)
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        """Release the context."""
        if self._context:
            self._c.llama_free(self._context)
        self._context = None

    def _prepare(self, beginning: list[int], max_tokens: int, threads: int) -> None:
        """Empty the KV cache, or allocate a larger one, and evaluate the common prefix as sequence 0."""
        c = self._c
        size = len(beginning) + self._parallel * (PROMPT_TOKENS // 2 + max_tokens) + PROMPT_TOKENS
        if not self._context or c.llama_n_ctx(self._context) < size:
            self.close()
            options = c.llama_context_default_params()
            options.n_ctx, options.n_batch, options.n_seq_max = size, _BATCH, self._parallel + 1
            options.kv_unified = True  # sequences share the cells of the common prefix
            self._context = c.llama_init_from_model(self._model, options)
            if not self._context:
                raise Unfinished(f"not enough memory for {size} tokens of context: lower {flag('rewrite', 'parallel')}")
        c.llama_set_n_threads(self._context, threads, threads)
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
        """Evaluate as many pending tokens as fit one batch; set `output` of sequences whose last token is in it."""
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
            raise Unfinished(f"llama.cpp's context is full: lower {flag('rewrite', 'parallel')}")
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
        pieces = (piece(self._c, self._vocabulary, token) for token in tokens)
        return b"".join(pieces).decode("utf-8", errors="replace").strip()


def piece(c: Any, vocabulary: Any, token: int, special: bool = False) -> bytes:
    """Return the bytes of a token; those of special tokens are empty unless `special` is set."""
    if token < 0:
        return b""
    room = ctypes.create_string_buffer(256)
    length = c.llama_token_to_piece(vocabulary, token, room, len(room), 0, special)
    return room.raw[: max(length, 0)]


def shared_beginning(prompts: list[list[int]]) -> int:
    """Return the length of the common prefix of all prompts, which excludes the last token of each."""
    first, last = min(prompts), max(prompts)  # the common prefix of the first and the last in order is that of all
    limit = min(map(len, prompts)) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)
