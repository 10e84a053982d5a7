"""Decode and prefill of an 8 B model by our runner, sampling included, beside what the card can do.

A step is `TorchRunner.run`, timed from the host: what an engine waits for. KV is filled with random numbers, weights
are random; a prompt is one chunk, and the last point is the last chunk of a longer one.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench.gpu_check import card as cards
from bench.gpu_check.card import Card
from bench.gpu_check.check import Check, SkippedError
from bench.gpu_check.points import batches_that_fit, shape_of, tell_card, tell_decode, tell_prefill
from bench.gpu_check.shape import Shape
from workers.model.contract import Batch, Chunk, Launched, SampleRow
from workers.model.device_memory import available_bytes
from workers.model.fp8 import fill_normal
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

BLOCK_SIZE = 16
NUM_STEPS = 12
NUM_WARM_STEPS = 4
NUM_PREFILLS = 3
MAX_CAPTURE_S = 10.0
EAGER_BATCHES = (1, 64)  # also without graphs
GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


def run(check: Check) -> None:
    shape = shape_of(check)
    card = cards.measure(check.device)
    tell_card(check, card)
    tokens_each = shape.context + BLOCK_SIZE + NUM_WARM_STEPS + NUM_STEPS
    free_bytes = available_bytes(torch.device(check.device)) if not check.is_dry else 16 << 30
    batches = batches_that_fit(shape, free_bytes, tokens_each=tokens_each)
    if not batches:
        raise SkippedError(f"{free_bytes / 1e9:.0f} GB are too few for {shape.name} in bfloat16")
    began_s = time.perf_counter()
    runner = load(check, shape, max(max(batches) * tokens_each, max(shape.prompts) + BLOCK_SIZE))
    runner.warm_up()
    fill(runner)
    cards.synchronize(check.device)
    check.figure("loading", f"{shape.name} with random weights in {time.perf_counter() - began_s:.1f} s")
    for batch in shape.batches:
        with check.item(f"decode {batch}"):
            if batch not in batches:
                raise SkippedError("its KV does not fit")
            tell_decode(check, card, shape, batch, decode(runner, check, shape, batch))
    short, long = shape.prompts
    for num_tokens, context in ((short, 0), (long, 0), (short, long - short)):
        with check.item(f"prefill {num_tokens} after {context}"):
            seconds = prefill(runner, check, num_tokens, context)
            tell_prefill(check, card, shape, num_tokens, seconds, context)
    _without_graphs(check, runner, card, shape, [batch for batch in batches if batch in EAGER_BATCHES])


def _without_graphs(check: Check, runner: TorchRunner, card: Card, shape: Shape, batches: list[int]) -> None:
    num_graphs, at_start = (
        (runner.graphs.num_captured, runner.graphs.at_start) if runner.graphs is not None else (0, None)
    )
    check.judge("graphs", num_graphs > 0 or check.is_dry, f"{num_graphs} were captured", graphs=num_graphs)
    if at_start is not None:
        is_quick = at_start.seconds < MAX_CAPTURE_S
        check.judge("graphs at start", is_quick, str(at_start), seconds=at_start.seconds, nbytes=at_start.nbytes)
    check.figure("memory", str(runner.memory), **{part.name.lower(): n for part, n in runner.memory.nbytes.items()})
    runner.graphs = None
    for batch in batches:
        with check.item(f"decode {batch} without graphs"):
            seconds = decode(runner, check, shape, batch)
            tell_decode(check, card, shape, batch, seconds, " without graphs")


def load(check: Check, shape: Shape, num_tokens: int) -> TorchRunner:
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    engine = EngineSpec(
        block_size=BLOCK_SIZE,
        memory_bytes=num_blocks * shape.kv_bytes(BLOCK_SIZE),
        max_batched_tokens=max(shape.prompts),
        max_sequences=max(shape.batches),
    )
    with tempfile.TemporaryDirectory(prefix="baton-gpu-check-") as scratch:
        return TorchRunner(
            WorkerSpec(
                worker_id="check-0",
                role=Role.MIXED,
                model=str(shape.write(Path(scratch))),
                served_name="check",
                dtype="bfloat16",
                device=check.device,
                load_format="dummy",
                engine=engine,
                kv=KVSpec(dtype=shape.kv_dtype),
            )
        )


def fill(runner: TorchRunner) -> None:
    """The blocks, with random numbers."""
    for layer in runner.store.layers:
        fill_normal(layer.flatten(0, 1))


def decode(runner: TorchRunner, check: Check, shape: Shape, batch: int) -> float:
    """Seconds per step, the median; see `decode_steps`."""
    return statistics.median(decode_steps(runner, check, shape, batch, NUM_STEPS))


def decode_steps(runner: TorchRunner, check: Check, shape: Shape, batch: int, num_steps: int) -> list[float]:
    """Seconds of each step; every sequence grows by a token a step.

    Where the runner runs ahead, each step is launched before the one before has landed, as an engine does it.
    """
    width = -(-(shape.context + NUM_WARM_STEPS + num_steps) // BLOCK_SIZE)
    blocks = _shuffled(runner)
    tables = [blocks[i * width : (i + 1) * width] for i in range(batch)]
    position = shape.context - 1
    tokens = [[7 + i] for i in range(batch)]
    flying: Launched | None = None

    def step() -> None:
        nonlocal position, flying
        if runner.runs_ahead:
            before, flying = flying, runner.launch(_batch(tokens, tables, position, follows=flying is not None))
            if before is not None:
                before.result()
        else:
            runner.run(_batch(tokens, tables, position))
        position += 1

    took_s: list[float] = []
    cards.synchronize(check.device)
    for _ in range(NUM_WARM_STEPS + num_steps):
        began_s = time.perf_counter()
        step()
        took_s.append(time.perf_counter() - began_s)
    if flying is not None:
        flying.result()
    return took_s[NUM_WARM_STEPS:]


def prefill(runner: TorchRunner, check: Check, num_tokens: int, context: int) -> float:
    batch = prompt_batch(runner, num_tokens, context)
    return cards.seconds_of(lambda: runner.run(batch), check.device, runs=NUM_PREFILLS, warm_runs=1)


def prompt_batch(runner: TorchRunner, num_tokens: int, context: int) -> Batch:
    """One chunk, after `context` tokens."""
    table = _shuffled(runner)[: -(-(context + num_tokens) // BLOCK_SIZE)]
    return _batch([_words(num_tokens)], [table], context)


def mixed_batch(runner: TorchRunner, batch: int, context: int, num_tokens: int) -> Batch:
    """A decode of `batch` sequences of `context` tokens, and the first chunk of a prompt."""
    width = -(-context // BLOCK_SIZE)
    blocks = _shuffled(runner)
    tables = [blocks[i * width : (i + 1) * width] for i in range(batch)]
    decodes = _batch([[7 + i] for i in range(batch)], tables, context - 1)
    table = blocks[batch * width :][: -(-num_tokens // BLOCK_SIZE)]
    prompt = Chunk(token_ids=_words(num_tokens), start=0, block_ids=table, num_sequence_tokens=num_tokens)
    return Batch(chunks=[*decodes.chunks, prompt], samples=decodes.samples)


def _words(num_tokens: int) -> list[int]:
    return [2 + i % 100 for i in range(num_tokens)]


def _shuffled(runner: TorchRunner) -> list[int]:
    """All blocks, as they lie in a worker that has run for a while."""
    blocks = list(range(runner.num_blocks))
    random.Random(0).shuffle(blocks)
    return blocks


def _batch(tokens: list[list[int]], tables: list[list[int]], start: int, *, follows: bool = False) -> Batch:
    """The same chunk of every sequence, and a token after each. `follows`: the chunk is what the step before drew."""
    rows = [index if follows else None for index in range(len(tokens))]
    chunks = [
        Chunk(token_ids=mine, start=start, block_ids=table, num_sequence_tokens=start + len(mine), follows=row)
        for mine, table, row in zip(tokens, tables, rows, strict=True)
    ]
    samples = [
        SampleRow(chunk=i, choice=0, params=GREEDY, prompt_token_ids=(0,), output_token_ids=(), follows=rows[i])
        for i in range(len(chunks))
    ]
    return Batch(chunks=chunks, samples=samples)
