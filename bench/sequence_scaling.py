"""What prefill by many ranks would take, from what one and two ranks were measured to take.

    T(n, W) = max over ranks r of [a n_r + e n_r (r > 0) + b (end_r^2 - start_r^2) / 2]
              + linear layers x [latency + W x state bytes / bandwidth + (W - 1) x fold]
              + softmax layers x [latency + n x bytes of keys and values / bandwidth]

n tokens on W ranks; rank r holds [start_r, end_r), n_r tokens; a: a token's own cost, b: of each earlier token that its
softmax layers see, e: what a token costs more on ranks that are not the first (the delta rule's transition).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.parallel.pieces import cut_prompt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds on one core. Layers' numbers are of a whole stack."""

    token_s: float
    key_s: float
    other_s: float
    fold_s: float = 0.0
    latency_s: float = 0.0
    bytes_per_s: float = 1e9
    num_linear: int = 0
    state_nbytes: int = 0  # of one linear layer
    num_softmax: int = 0
    token_kv_nbytes: int = 0  # of one softmax layer

    @property
    def growth(self) -> float:
        return self.key_s / (self.token_s + self.other_s)

    @property
    def first_cost(self) -> float:
        return self.token_s / (self.token_s + self.other_s)


def costs_of(seconds: Mapping[int, float], other_s: float) -> Costs:
    """From one rank's times of a shorter and a longer prompt, and what the longer takes more on another rank."""
    (short, short_s), (long, long_s) = sorted(seconds.items())
    key_s = max(0.0, 2 * (long_s / long - short_s / short) / (long - short))
    return Costs(token_s=long_s / long - key_s * long / 2, key_s=key_s, other_s=max(0.0, other_s / long))


def predicted_s(costs: Costs, num_tokens: int, num_ranks: int) -> float:
    pieces = cut_prompt(num_tokens, num_ranks, growth=costs.growth, first_cost=costs.first_cost)
    slowest_s = max(
        (costs.token_s + (costs.other_s if rank else 0)) * len(piece)
        + costs.key_s * (piece.stop**2 - piece.start**2) / 2
        for rank, piece in enumerate(pieces)
    )
    if num_ranks == 1:
        return slowest_s
    states_s = costs.latency_s + num_ranks * costs.state_nbytes / costs.bytes_per_s + (num_ranks - 1) * costs.fold_s
    keys_s = costs.latency_s + num_tokens * costs.token_kv_nbytes / costs.bytes_per_s
    return slowest_s + costs.num_linear * states_s + costs.num_softmax * keys_s


def draw(
    stacks: Mapping[str, Costs], lengths: Sequence[int], measured: Mapping[tuple[str, int], float], path: Path
) -> None:
    """Speed-up over one rank against ranks.

    Args:
        measured: By stack and length: of two ranks.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranks = [1, 2, 4, 8, 16, 32, 64]
    figure = Figure(figsize=(4.2 * len(stacks), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, costs) in enumerate(stacks.items()):
        axes = figure.add_subplot(1, len(stacks), number + 1)
        axes.plot(ranks, ranks, color="gray", linewidth=1, label="ideal")
        for length in lengths:
            alone_s = predicted_s(costs, length, 1)
            (line,) = axes.plot(
                ranks, [alone_s / predicted_s(costs, length, n) for n in ranks], label=f"{length // 1024} K tokens"
            )
            if (name, length) in measured:
                axes.plot([2], [measured[name, length]], "o", color=line.get_color())
        axes.set(xlabel="ranks", ylabel="times faster than one rank", title=name, xscale="log", yscale="log")
        axes.set_xticks(ranks, [str(n) for n in ranks])
        axes.set_yticks(ranks, [str(n) for n in ranks])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(
        "T(n, W) = max over r of [a n$_r$ + e n$_r$ (r>0) + b (end$_r^2$ - start$_r^2$)/2]\n"
        "+ layers x [latency + bytes / bandwidth + folds]; dots are measured",
        fontsize=7,
    )
    figure.savefig(path, dpi=110)
