"""The points of `speed` by vLLM: a step's time is what two runs differ by that differ by NUM_STEPS tokens."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.gpu_check import card as cards
from bench.gpu_check.check import Check, SkippedError, require
from bench.gpu_check.points import shape_of, tell_card, tell_decode, tell_prefill
from bench.gpu_check.shape import Shape

NUM_STEPS = 32

Generate = Callable[[int, int, int], float]  # (requests, prompt tokens, output tokens) -> seconds


def run(check: Check) -> None:
    if check.is_dry:
        raise SkippedError("vLLM's CPU build is timed by bench.engine")
    require("vllm")
    shape = shape_of(check)
    card = cards.measure(check.device)
    tell_card(check, card)
    generate = _start(shape)
    for num_tokens in shape.prompts:
        with check.item(f"prefill {num_tokens}"):
            tell_prefill(check, card, shape, num_tokens, min(generate(1, num_tokens, 1) for _ in range(3)))
    for batch in shape.batches:
        with check.item(f"decode {batch}"):
            short, long = (generate(batch, shape.context, count) for count in (1, 1 + NUM_STEPS))
            tell_decode(check, card, shape, batch, (long - short) / NUM_STEPS)


def _start(shape: Shape) -> Generate:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(prefix="baton-gpu-check-") as scratch:
        llm = LLM(
            model=str(shape.write(Path(scratch))),
            load_format="dummy",
            dtype="bfloat16",
            max_model_len=max(shape.prompts) + NUM_STEPS,
            max_num_batched_tokens=max(shape.prompts),
            max_num_seqs=max(shape.batches),
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
        )

    def generate(requests: int, num_tokens: int, num_outputs: int) -> float:
        prompts = [{"prompt_token_ids": [2 + (i + j) % 100 for j in range(num_tokens)]} for i in range(requests)]
        params = SamplingParams(temperature=0, max_tokens=num_outputs, ignore_eos=True, detokenize=False)
        began_s = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - began_s

    return generate
