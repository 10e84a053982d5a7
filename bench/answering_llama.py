"""llama.cpp for `bench.speculation_questions`: llama-cpp-python's own generation, with its prompt lookup and without.

Its speculation takes one prompt at a time. `form` as in `bench.engine_llama`.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found]
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # type: ignore[import-not-found]

from bench.answering import Answer
from bench.engine_llama import in_form, say_errors
from bench.engine_sides import MAX_BATCHED_TOKENS, NUM_THREADS


class LlamaCpp:
    def __init__(self, file: Path, ways: Sequence[str], max_model_len: int, eos_token_ids: Sequence[int]) -> None:
        """`ways`: none, or how many tokens prompt lookup guesses."""
        self._eos = frozenset(eos_token_ids)
        self._models = {
            way: llama_cpp.Llama(
                str(file),
                n_ctx=max_model_len,
                n_batch=MAX_BATCHED_TOKENS,
                n_threads=NUM_THREADS,
                n_threads_batch=NUM_THREADS,
                draft_model=None if way == "none" else LlamaPromptLookupDecoding(num_pred_tokens=int(way)),
                verbose=False,
            )
            for way in ways
        }

    def answer(self, way: str, prompts: Sequence[Sequence[int]], num_tokens: int) -> Answer:
        if len(prompts) > 1:
            raise RuntimeError("llama-cpp-python speculates for one prompt at a time")
        written = self._written(way, prompts[0], num_tokens)
        token_ids = [next(written)]
        began_s = time.perf_counter()
        token_ids += written
        return Answer(time.perf_counter() - began_s, len(token_ids) - 1, [token_ids])

    def _written(self, way: str, prompt: Sequence[int], num_tokens: int) -> Iterator[int]:
        tokens = self._models[way].generate(prompt, temp=0.0)
        for _, token in zip(range(num_tokens), tokens, strict=False):
            yield token
            if token in self._eos:
                return


def start(settings: dict[str, Any]) -> LlamaCpp:
    file = in_form(Path(settings["gguf"]), settings["form"], Path(settings["cache"]))
    model = LlamaCpp(file, settings["ways"], settings["max_model_len"], settings["eos_token_ids"])
    llama_cpp.llama_log_set(say_errors, None)
    return model
