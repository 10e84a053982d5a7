"""What a step takes that verifies draft tokens as a tree, beside as many as a path, and none; and what moving the keys
and values of an accepted way takes.

    python -m bench.tree_step --tokens 8,16,32
    python -m bench.tree_step --quick          # under a minute

One runner, weights of the model, sequences of `--context` tokens, medians of steps that take turns.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import typer

from bench.machine import Quick, announce
from cluster.fleet.nodes import resolve_dtype
from cluster.profiling.specs import available_cores
from workers.model.contract import Batch, Chunk, ChunkKind, SampleRow
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.model.trees import MAX_TOKENS
from workers.spec import EngineSpec, Role, WorkerSpec

BRANCHES = 4  # of the tree, of equal length
GREEDY = SamplingParams(max_tokens=1000, temperature=0.0)


def tree_of(num_tokens: int) -> list[int]:
    return [-1 if at < BRANCHES else at - BRANCHES for at in range(num_tokens)]


def batch(num_sequences: int, context: int, blocks_each: int, drafts: int, parents: Sequence[int]) -> Batch:
    chunks, rows = [], []
    for number in range(num_sequences):
        chunks.append(
            Chunk(
                token_ids=[100 + at for at in range(1 + drafts)],
                start=context,
                block_ids=range(number * blocks_each, (number + 1) * blocks_each),
                num_sequence_tokens=context + 1 + drafts,
                kind=ChunkKind.DECODE,
                parents=parents,
            )
        )
        rows.append(
            SampleRow(
                chunk=number,
                choice=0,
                params=GREEDY,
                prompt_token_ids=(),
                output_token_ids=[1] * (context + 1),
                draft_token_ids=chunks[-1].token_ids[1:],
                parents=parents,
            )
        )
    return Batch(chunks=chunks, samples=rows)


def medians_ms(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 2):
        for name, run in runs.items():
            began_s = time.perf_counter()
            run()
            if number >= 2:
                took[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(each) * 1000 for name, each in took.items()}


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype")] = "auto",
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "1,4,16",
    tokens: Annotated[str, typer.Option("--tokens", help="Draft tokens of each sequence, comma-separated.")] = "8,16",
    context: Annotated[int, typer.Option("--context", min=1)] = 512,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 15,
    quick: Quick = False,
) -> None:
    """What a tree costs."""
    sizes = [int(word) for word in tokens.split(",")]
    if not 1 <= min(sizes) <= max(sizes) <= MAX_TOKENS:
        raise typer.BadParameter(f"{tokens}: each is 1 to {MAX_TOKENS}", param_hint="--tokens")
    if quick:
        rounds = min(rounds, 5)
    announce("bench.tree_step", about_s=60, dtypes=[resolve_dtype(dtype, "cpu")])
    torch.set_num_threads(len(available_cores()))
    spec = WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=str(resolve_model(model)),
        served_name="bench",
        dtype=resolve_dtype(dtype, "cpu"),
        device="cpu",
        engine=EngineSpec(max_model_len=2 * context, prefix_cache=False),
    )
    runner = TorchRunner(spec)
    runner.warm_up()
    blocks_each = -(-(context + 64) // spec.engine.block_size)
    for size in map(int, concurrency.split(",")):
        for drafts in sizes:
            shapes = {"none": (0, ()), "path": (drafts, ()), "tree": (drafts, tree_of(drafts))}
            steps = {name: batch(size, context, blocks_each, *shape) for name, shape in shapes.items()}
            moves = [
                (number * blocks_each * spec.engine.block_size + context + at + 3, context + at)
                for number in range(size)
                for at in (1, 2)
            ]
            runs: dict[str, Callable[[], object]] = {
                **{name: (lambda one=one: runner.run(one)) for name, one in steps.items()},  # type: ignore[misc]
                "two tokens moved for each": lambda moves=moves: runner.copy_tokens(moves),  # type: ignore[misc]
            }
            found = medians_ms(runs, rounds)
            shown = "   ".join(f"{name} {ms:.2f}" for name, ms in found.items())
            print(f"{size:3} sequences, {drafts:2} drafts each, ms: {shown}", flush=True)


if __name__ == "__main__":
    typer.run(main)
