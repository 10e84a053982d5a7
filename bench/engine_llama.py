"""llama.cpp for `bench.engine`, by llama-cpp-python's binding of its C interface, in its own environment.

`form` is `file`, the GGUF file as it is, or f16 or bf16: its weights in that type, written once to the cache folder by
llama.cpp's own quantizer. KV is in f16, flash attention as llama.cpp chooses, each sequence has a cache of its own.
"""

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp as c  # type: ignore[import-not-found]
import numpy as np

from bench.engine_sides import MAX_BATCHED_TOKENS, NUM_THREADS, prompt_of

FORMS = {"f16": c.LLAMA_FTYPE_MOSTLY_F16, "bf16": c.LLAMA_FTYPE_MOSTLY_BF16}
ERROR = 4  # GGML_LOG_LEVEL_ERROR
PAD = 256  # tokens to which llama.cpp rounds a sequence's room


class LlamaCpp:
    def __init__(self, file: Path, vocab: int) -> None:
        self._model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self._vocab = vocab
        self._width = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._batch = c.llama_batch_init(MAX_BATCHED_TOKENS, 0, 1)
        self._states: dict[tuple[int, int], Any] = {}  # sequences of a context, tokens -> what one of them holds

    def decode(self, batch: int, context: int, steps: int) -> float:
        """One prompt is read once, and its state copied to every sequence."""
        with self._context(batch, context + steps + 1) as ctx:
            state = self._state(ctx, batch, context)
            for sequence in range(batch):
                if not c.llama_state_seq_set_data(ctx, state, len(state), sequence):
                    raise RuntimeError(f"llama.cpp has no room for {batch} sequences of {context} tokens")
            tokens = [1] * batch
            began_s = 0.0
            for step in range(steps + 1):  # the first is not counted
                if step == 1:
                    began_s = time.perf_counter()
                rows = [(token, context + step, sequence, True) for sequence, token in enumerate(tokens)]
                tokens = self._run(ctx, rows)
            return (time.perf_counter() - began_s) / steps

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        """All prompts, packed into full batches, then all answers side by side."""
        longest = max(len(prompt) + count for prompt, count in zip(prompts, num_outputs, strict=True))
        with self._context(len(prompts), longest) as ctx:
            rows = [
                (token, place, sequence, place == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for place, token in enumerate(prompt)
            ]
            tokens: list[int] = []
            for start in range(0, len(rows), MAX_BATCHED_TOKENS):
                tokens += self._run(ctx, rows[start : start + MAX_BATCHED_TOKENS])
            last = dict(enumerate(tokens))
            for done in range(1, max(num_outputs)):
                last = {sequence: token for sequence, token in last.items() if num_outputs[sequence] > done}
                places = {sequence: len(prompts[sequence]) + done - 1 for sequence in last}
                rows = [(token, places[sequence], sequence, True) for sequence, token in last.items()]
                last = dict(zip(last, self._run(ctx, rows), strict=True))

    def _state(self, ctx: Any, batch: int, context: int) -> Any:
        if (batch, context) not in self._states:
            rows = [(token, place, 0, False) for place, token in enumerate(prompt_of(context, 1, self._vocab))]
            for start in range(0, context, MAX_BATCHED_TOKENS):
                self._run(ctx, rows[start : start + MAX_BATCHED_TOKENS])
            size = c.llama_state_seq_get_size(ctx, 0)
            state = (ctypes.c_uint8 * size)()
            if c.llama_state_seq_get_data(ctx, state, size, 0) != size:
                raise RuntimeError(f"llama.cpp did not give the state of {context} tokens")
            self._states[batch, context] = state
        return self._states[batch, context]

    def _run(self, ctx: Any, rows: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """One batch of (token, position, sequence, whether it is sampled); the likeliest token after each such."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, is_sampled) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, is_sampled
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        status = c.llama_decode(ctx, batch)
        if status:
            raise RuntimeError(f"llama_decode gave {status}")
        sampled = [index for index, row in enumerate(rows) if row[3]]
        return [
            int(np.ctypeslib.as_array(c.llama_get_logits_ith(ctx, index), (self._width,)).argmax()) for index in sampled
        ]

    @contextmanager
    def _context(self, num_sequences: int, num_tokens: int) -> Iterator[Any]:
        """Room for sequences of so many tokens each."""
        params = c.llama_context_default_params()
        params.n_ctx = num_sequences * -(-num_tokens // PAD) * PAD
        params.n_batch = MAX_BATCHED_TOKENS
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = NUM_THREADS
        params.kv_unified = False
        ctx = c.llama_init_from_model(self._model, params)
        if not ctx:
            raise RuntimeError(f"llama.cpp gave no context for {num_sequences} sequences of {num_tokens} tokens")
        try:
            yield ctx
        finally:
            c.llama_free(ctx)


def in_form(file: Path, form: str, cache: Path) -> Path:
    """The file with its weights in another type, made unless it is there."""
    target = cache / f"{file.stem}.{form}.gguf"
    if form == "file":
        return file
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        params = c.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = FORMS[form], True, NUM_THREADS
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = Path(scratch) / target.name
            status = c.llama_model_quantize(str(file).encode(), str(made).encode(), ctypes.byref(params))
            if status:
                raise RuntimeError(f"llama_model_quantize gave {status} for {file}")
            os.replace(made, target)
    return target


@c.llama_log_callback  # type: ignore[untyped-decorator]
def say_errors(level: int, text: bytes, _: Any) -> None:
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def start(settings: dict[str, Any]) -> LlamaCpp:
    c.llama_log_set(say_errors, None)
    c.llama_backend_init()
    file = in_form(Path(settings["gguf"]), settings["form"], Path(settings["cache"]))
    return LlamaCpp(file, settings["vocab"])
