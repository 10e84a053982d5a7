"""What a hybrid's recurrences cost beside its products with weights: the constants of `workers.parallel.token_costs`.

    python -m bench.sequence_costs
    python -m bench.sequence_costs --quick    # fewer rounds

A 115 M-parameter hybrid on one core reads a prompt; by dtype: ms for all but the recurrences, for these, and for what
a rank other than the first does besides (a piece's effect on the state). Both are told per operation, in those of the
model's products with weights, as RECURRENCE_COST has them.
"""

import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bench.engine_points import parse_points
from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of
from bench.models import HYBRID_115M, write_hybrid
from bench.tensor_parallel import spec_of
from cluster.profiling.specs import available_cores
from workers.model.contract import Chunk, Row
from workers.model.hybrid.mixer import Recurrence, mixers_of
from workers.model.hybrid.states import States
from workers.model.linear import make_piece
from workers.model.runner import TorchRunner
from workers.parallel import token_costs


class TimedStates(States):
    """Seconds of the recurrences, and of the effects, which come on top."""

    recurring_s = effect_s = 0.0

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        began_s = time.perf_counter()
        out = super().recur(layer, recurrence)
        self.recurring_s += time.perf_counter() - began_s
        piece = make_piece(*recurrence, self._parts[layer][0][0])
        began_s = time.perf_counter()
        piece.effect()
        self.effect_s += time.perf_counter() - began_s
        return out


@torch.inference_mode()
def measure(runner: TorchRunner, num_tokens: int) -> tuple[float, float, float]:
    """Seconds: without recurrences and effects, of recurrences, of effects."""
    num_blocks = -(-num_tokens // runner.store.block_size)
    tokens = [(31 * i + i * i % 97) % runner.vocab_size for i in range(num_tokens)]
    chunk = Chunk(token_ids=tokens, start=0, block_ids=range(num_blocks), num_sequence_tokens=num_tokens, state_id=0)
    states = TimedStates(runner._states, [chunk], runner.device)
    began_s = time.perf_counter()
    runner._computed([chunk], [Row(0, 0)], None, states=states)
    whole_s = time.perf_counter() - began_s
    return whole_s - states.recurring_s - states.effect_s, states.recurring_s, states.effect_s


def compare(dtype: str, num_tokens: int, rounds: int, folder: Path) -> None:
    spec = spec_of(folder, dtype, 1, parse_points(f"prefill {num_tokens}"), "dummy")
    runner = TorchRunner(replace(spec, num_threads=1))
    measure(runner, num_tokens)
    found = [measure(runner, num_tokens) for _ in range(rounds)]
    other_s, recurring_s, effect_s = (statistics.median(column) for column in zip(*found, strict=True))
    config, mixers = runner.model.config, mixers_of(runner.model)
    product_s = other_s / (num_tokens * config.num_hidden_layers * token_costs._products(config))
    recurrence = recurring_s / (num_tokens * sum(map(token_costs._recurrence, mixers)))
    effect = effect_s / (num_tokens * sum(map(token_costs._effect, mixers)))
    print(
        f"{dtype}: {num_tokens} tokens: {other_s * 1e3:.0f} ms, recurrences {recurring_s * 1e3:.0f} ms"
        f" ({recurrence / product_s:.1f} per operation), effects {effect_s * 1e3:.0f} ms ({effect / product_s:.1f})"
    )


def main(
    tokens: Annotated[int, typer.Option("--tokens", min=64)] = 1024,
    dtypes: Dtypes = DEFAULT_DTYPES,
    quick: Quick = False,
) -> None:
    """Of one core."""
    core, rounds = available_cores()[0], 2 if quick else 7
    kinds = dtypes_of(dtypes)
    announce("bench.sequence_costs", about_s=len(kinds) * (4 + 1.5 * rounds), dtypes=kinds, cores=[core])
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    folder = write_hybrid(HYBRID_115M, Path(tempfile.gettempdir()) / "baton-bench-hybrid-115m")
    for dtype in kinds:
        compare(dtype, tokens, rounds, folder)


if __name__ == "__main__":
    typer.run(main)
