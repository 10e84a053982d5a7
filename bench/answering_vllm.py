"""vLLM's CPU build for `bench.speculation_questions`, in its own environment; one way a process, as it is built.

It reads the model's folder, not its GGUF file. `ngram` is its prompt lookup with the numbers of its documentation's
example, and from two tokens in common on.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

from bench.answering import Answer
from bench.engine_sides import MAX_BATCHED_TOKENS

NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
WAYS: dict[str, dict[str, Any] | None] = {"none": None, "ngram": NGRAM}


class VLLM:
    def __init__(self, engine: Any, eos_token_ids: Sequence[int]) -> None:
        self._engine = engine
        self._eos = list(eos_token_ids)
        self._fresh = itertools.count()

    def answer(self, way: str, prompts: Sequence[Sequence[int]], num_tokens: int) -> Answer:
        params = SamplingParams(temperature=0, max_tokens=num_tokens, stop_token_ids=self._eos, detokenize=False)
        names = [str(next(self._fresh)) for _ in prompts]
        for name, prompt in zip(names, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
        written: dict[str, list[int]] = {name: [] for name in names}
        while not all(written.values()):
            self._step(written)
        num_before, began_s = sum(map(len, written.values())), time.perf_counter()
        while self._engine.has_unfinished_requests():
            self._step(written)
        seconds = time.perf_counter() - began_s
        return Answer(seconds, sum(map(len, written.values())) - num_before, [written[name] for name in names])

    def _step(self, written: dict[str, list[int]]) -> None:
        for output in self._engine.step():
            written[output.request_id] = list(output.outputs[0].token_ids)


def start(settings: dict[str, Any]) -> VLLM:
    (way,) = settings["ways"]
    llm = LLM(
        model=settings["folder"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_batched_tokens=MAX_BATCHED_TOKENS,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        speculative_config=WAYS[way],
    )
    return VLLM(llm.llm_engine, settings["eos_token_ids"])
