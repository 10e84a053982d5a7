"""vLLM's CPU build for `bench.engine`, in its own environment. Weights are random: no time depends on them.

Decodes are told from two jobs, of one token and of `steps` more, whose prompts its prefix cache holds after the first
time.
"""

import time
from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

from bench.engine_sides import MAX_BATCHED_TOKENS, prompt_of


class VLLM:
    def __init__(self, llm: Any, vocab: int) -> None:
        self._llm, self._vocab = llm, vocab

    def decode(self, batch: int, context: int, steps: int) -> float:
        prompts = [prompt_of(context, number, self._vocab) for number in range(batch)]
        short_s, long_s = (self._timed(prompts, [count] * batch) for count in (1, 1 + steps))
        return (long_s - short_s) / steps

    def _timed(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> float:
        began_s = time.perf_counter()
        self.generate(prompts, num_outputs)
        return time.perf_counter() - began_s

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        params = [
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False) for count in num_outputs
        ]
        found = self._llm.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
        made = sum(len(each.outputs[0].token_ids) for each in found)
        if made != sum(num_outputs):
            raise RuntimeError(f"vLLM made {made} tokens, not {sum(num_outputs)}")


def start(settings: dict[str, Any]) -> VLLM:
    llm = LLM(
        model=settings["folder"],
        load_format="dummy",
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_batched_tokens=MAX_BATCHED_TOKENS,
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
        tensor_parallel_size=settings.get("tensor_parallel", 1),
    )
    return VLLM(llm, settings["vocab"])
