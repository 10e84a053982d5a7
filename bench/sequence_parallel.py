"""Prefill of long prompts by one rank and by two (LASP-2, LASP-2H): a layer of each kind, and whole stacks of layers.

    python -m bench.sequence_parallel                  # 4 K to 64 K tokens
    python -m bench.sequence_parallel --quick          # up to 4 K, under 2 minutes
    python -m bench.sequence_parallel --only kda,hybrid --lengths 16384

A rank is a process on one core; float32. Layers by themselves have a hidden size of --hidden. Of the stacks, layers of
--stack-hidden with an MLP each, `hybrid` has twice three gated-delta layers and a softmax layer, and `softmax_stack`
four softmax layers (2H alone). `ring` passes states from rank to rank (LASP-1). Times are medians over
rounds in which one rank, two and the ring take turns; of two ranks, the slower one's. The prompt is cut by costs that
are measured first.

Then what more ranks would take, by the formula of `bench.sequence_scaling`, from what was measured; --plot draws it.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.machine import Quick, announce
from bench.sequence_layers import HEAD_DIM, KINDS, QUERIES_PER_KEY, SHAPES, SOFTMAX
from bench.sequence_rank import Run
from bench.sequence_scaling import Costs, best_cut, costs_of, draw, predicted_s
from bench.sequence_side import Ranks
from cluster.profiling.specs import available_cores

STACKS: dict[str, tuple[str, ...]] = {
    "hybrid": (("gated_delta",) * 3 + (SOFTMAX,)) * 2,
    "softmax_stack": (SOFTMAX,) * 4,
}
CALIBRATION, QUICK_CALIBRATION = (2048, 8192), (1024, 2048)
LENGTHS, QUICK_LENGTHS = "4096,16384,65536", "2048,4096"
ROUNDS, FEWER_ROUNDS_FROM_S = 3, 10.0  # one round where a run takes that long
LONGEST_S = 150.0  # of one rank's run; longer points are left out, and named
PREDICTED_RANKS = (8, 16, 32, 64)
PREDICTED_LENGTHS = (16384, 65536, 262144)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """Seconds; `ring_s` None where there is no state to pass."""

    one_s: float
    two_s: float
    ring_s: float | None

    @property
    def speedup(self) -> float:
        return self.one_s / self.two_s


def calibrate(ranks: Ranks, kinds: Sequence[str], hidden: int, lengths: Sequence[int]) -> Costs:
    """What tokens cost, for the cut and the prediction."""
    runs = [Run(kinds=kinds, hidden=hidden, num_tokens=n) for n in lengths]
    ranks.run(runs[0])  # memory and kernels are there after it
    seconds = {run.num_tokens: min(ranks.run(run) for _ in range(2)) for run in runs}
    longest = runs[-1]
    other_s = min(ranks.run(dataclasses.replace(longest, states="other")) for _ in range(2))
    costs = costs_of([kind == SOFTMAX for kind in kinds], seconds, other_s - seconds[longest.num_tokens])
    linear = [SHAPES[kind].scaled(hidden) for kind in kinds if kind != SOFTMAX]
    nbytes = max((4 * shape.num_effect_floats for shape in linear), default=0)
    small_s, large_s = ranks.gather_s(1), ranks.gather_s(1 << 22)
    return dataclasses.replace(
        costs,
        fold_s=max((ranks.fold_s(shape.num_heads, shape.d_k, shape.d_v) for shape in linear), default=0.0),
        latency_s=small_s,
        bytes_per_s=2 * 4 * (1 << 22) / large_s,
        state_nbytes=nbytes,
        token_kv_nbytes=4 * 2 * max(hidden // HEAD_DIM // QUERIES_PER_KEY, 1) * HEAD_DIM if SOFTMAX in kinds else 0,
    )


def measure(ranks: Ranks, kinds: Sequence[str], hidden: int, num_tokens: int, costs: Costs) -> Point:
    alone = Run(kinds=kinds, hidden=hidden, num_tokens=num_tokens)
    both = dataclasses.replace(alone, num_ranks=2, lengths=_lengths(costs, num_tokens))
    spared = dataclasses.replace(costs, other_s=0.0)  # a ring has no transition to find
    ring = dataclasses.replace(both, states="ring", lengths=_lengths(spared, num_tokens))
    runs = [alone, both, ring] if set(kinds) != {SOFTMAX} else [alone, both]
    rounds = 1 if predicted_s(costs, num_tokens, 1) >= FEWER_ROUNDS_FROM_S else ROUNDS
    times = [[ranks.run(run) for run in runs] for _ in range(rounds)]
    one_s, two_s, *rest = (statistics.median(column) for column in zip(*times, strict=True))
    return Point(one_s, two_s, rest[0] if rest else None)


def _lengths(costs: Costs, num_tokens: int) -> list[int]:
    return [len(piece) for piece in best_cut(costs, num_tokens, 2)]


def say(name: str, num_tokens: int, point: Point) -> None:
    ring = (
        "" if point.ring_s is None else f"   ring {point.ring_s:7.2f} s ({point.ring_s / point.two_s:.2f} x LASP-2's)"
    )
    print(
        f"{name:12} {num_tokens:6} tokens: 1 rank {point.one_s:7.2f} s   2 ranks {point.two_s:7.2f} s"
        f"   {point.speedup:.2f} x faster{ring}",
        flush=True,
    )


def say_predictions(name: str, costs: Costs) -> None:
    print(
        f"{name}: a {costs.token_s * 1e6:.0f} us, b {costs.key_s * 1e9:.2f} ns, e {costs.other_s * 1e6:.0f} us, fold"
        f" {costs.fold_s * 1e6:.0f} us, latency {costs.latency_s * 1e6:.0f} us, {costs.bytes_per_s / 1e9:.2f} GB/s"
    )
    for length in PREDICTED_LENGTHS:
        alone_s = predicted_s(costs, length, 1)
        told = ", ".join(f"{n}: {alone_s / predicted_s(costs, length, n):.1f} x" for n in PREDICTED_RANKS)
        print(f"  predicted at {length} tokens, by ranks: {told}")


def run_all(names: Sequence[str], hidden: dict[str, int], lengths: Sequence[int], *, quick: bool, plot: str) -> None:
    calibration = QUICK_CALIBRATION if quick else CALIBRATION
    drawn: dict[str, Costs] = {}
    measured: dict[tuple[str, int], float] = {}
    with Ranks(available_cores()[:2]) as ranks:
        for name in names:
            kinds = STACKS.get(name, (name,))
            costs = calibrate(ranks, kinds, hidden[name], calibration)
            for length in lengths:
                expected_s = predicted_s(costs, length, 1)
                if expected_s > LONGEST_S:
                    print(f"{name:12} {length:6} tokens: left out, one rank would take {expected_s:.0f} s")
                    continue
                point = measure(ranks, kinds, hidden[name], length, costs)
                say(name, length, point)
                measured[name, length] = point.speedup
            if name in STACKS:
                say_predictions(name, costs)
                drawn[name] = costs
    if plot and drawn:
        draw(drawn, PREDICTED_LENGTHS, measured, Path(plot))


def main(
    quick: Quick = False,
    only: Annotated[str, typer.Option("--only", help="Comma-separated: kinds of layers, stacks.")] = "",
    lengths: Annotated[str, typer.Option("--lengths", help="Comma-separated, in tokens.")] = "",
    hidden: Annotated[int, typer.Option("--hidden", help="Hidden size of layers by themselves.")] = 1024,
    stack_hidden: Annotated[int, typer.Option("--stack-hidden", help="Hidden size of stacks.")] = 512,
    plot: Annotated[str, typer.Option("--plot", help="A file for the picture.")] = "",
) -> None:
    """Prefill by one rank and by two."""
    known = (*KINDS, *STACKS)
    names = [word for word in only.split(",") if word] or list(dict.fromkeys(known))
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint="--only")
    if len(available_cores()) < 2:
        raise typer.BadParameter("two ranks need two cores; this process may use one")
    told = [int(word) for word in (lengths or (QUICK_LENGTHS if quick else LENGTHS)).split(",")]
    announce("sequence_parallel", about_s=90 if quick else 3000, dtypes=["float32"], cores=available_cores()[:2])
    sizes = {name: stack_hidden if name in STACKS else hidden for name in known}
    run_all(names, sizes, told, quick=quick, plot=plot)


if __name__ == "__main__":
    typer.run(main)
