"""The engines that `bench.engine` compares, each in its own process: `python -m bench.engine_sides SETTINGS`.

SETTINGS is a JSON object: side, folder, dtype, load_format, vocab, kv_bytes, max_model_len, max_sequences, gguf, and
form. Reads one JSON line per job and answers {"seconds": float}:

  {"kind": "decode", "batch", "context", "steps"}   of one step of `batch` sequences with `context` tokens before each
  {"kind": "prefill", "tokens"}                     until the first token of a prompt that nobody has seen before
  {"kind": "ragged", "lengths": [[prompt, output]]} until the last token of requests that come together

Only the standard library is imported before a side is chosen: some of them live in another Python environment.
"""

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

MAX_BATCHED_TOKENS = 2048  # prompt tokens of one step, on the sides that have such a limit
NUM_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SIDES = {  # name -> where it is
    "baton": "bench.engine_baton",
    "transformers": "bench.engine_transformers",
    "transformers-batch": "bench.engine_transformers",
    "vllm": "bench.engine_vllm",
    "llama.cpp": "bench.engine_llama",
}


class Engine(Protocol):
    """Greedy, past the end token."""

    def decode(self, batch: int, context: int, steps: int) -> float:
        """Seconds per step."""

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        """Returns when all are written. Raises: RuntimeError: not as many tokens came as were asked for."""


def prompt_of(length: int, seed: int, vocab: int) -> list[int]:
    return [(7919 * seed + 31 * i + i * i % 97) % (vocab - 1) + 1 for i in range(length)]


def num_decode_outputs(batch: int, context: int, steps: int) -> int:
    """Tokens to ask for so that all write in `steps` steps: the first write while the last ones' prompts are read."""
    return steps + 2 + batch + batch * context // MAX_BATCHED_TOKENS


def seconds(engine: Engine, job: dict[str, Any], vocab: int, fresh: "itertools.count[int]") -> float:
    """`fresh`: numbers of prompts that nobody has seen before."""
    if job["kind"] == "decode":
        return engine.decode(job["batch"], job["context"], job["steps"])
    lengths = job["lengths"] if job["kind"] == "ragged" else [(job["tokens"], 1)]
    prompts = [prompt_of(length, next(fresh), vocab) for length, _ in lengths]
    began_s = time.perf_counter()
    engine.generate(prompts, [count for _, count in lengths])
    return time.perf_counter() - began_s


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    engine = importlib.import_module(SIDES[settings["side"]]).start(settings)
    fresh = itertools.count(1000)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(
            json.dumps({"seconds": seconds(engine, json.loads(line), settings["vocab"], fresh)}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
