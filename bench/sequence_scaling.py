"""What prefill by many ranks would take, from what one and two ranks were measured to take.

n tokens on W ranks; rank r holds [start_r, end_r), n_r tokens. Of a stack of L layers, a is a token's own cost, e what
it costs more on ranks that are not the first (the delta rule's transition), b its cost for each earlier token that
softmax layers see. So layer by layer

    linear:   c_r = (a / L + e / linear layers (r > 0)) n_r
    softmax:  c_r = a n_r / L + b (end_r^2 - start_r^2) / 2 / softmax layers

and each rank's time goes on by c_r, but a rank that is not the first waits in every layer for what is gathered:

    linear:   after half of its c_r, for half of c of every rank, then latency + W x state bytes / bandwidth + r folds
    softmax:  at its start, for every rank's start, then latency + n x bytes of keys and values / bandwidth

T(n, W) is when the last rank is done. Ranks whose pieces cost the same in the whole stack do not in each layer: later
tokens see more keys, so the first rank has more tokens. A stack of few layers feels that; in one of many only its first
layers do.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.parallel.pieces import cut_prompt

TRIED_GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the growth that makes the whole stack's costs the same


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds on one core. Layers' numbers are of a whole stack.

    Attributes:
        is_softmax: Of each layer, in order.
        state_nbytes: Of one linear layer, of one rank.
        token_kv_nbytes: Of one softmax layer.
    """

    is_softmax: Sequence[bool]
    token_s: float
    key_s: float
    other_s: float
    fold_s: float = 0.0
    latency_s: float = 0.0
    bytes_per_s: float = 1e9
    state_nbytes: int = 0
    token_kv_nbytes: int = 0

    @property
    def num_softmax(self) -> int:
        return sum(self.is_softmax)

    @property
    def first_cost(self) -> float:
        return self.token_s / (self.token_s + self.other_s)

    def layer_s(self, is_softmax: bool, piece: range, rank: int) -> float:
        own_s = self.token_s * len(piece) / len(self.is_softmax)
        if is_softmax:
            return own_s + self.key_s * (piece.stop**2 - piece.start**2) / 2 / self.num_softmax
        others = len(self.is_softmax) - self.num_softmax
        return own_s + (self.other_s * len(piece) / others if rank else 0.0)


def costs_of(is_softmax: Sequence[bool], seconds: Mapping[int, float], other_s: float) -> Costs:
    """From one rank's times of a shorter and a longer prompt, and what the longer takes more on another rank."""
    (short, short_s), (long, long_s) = sorted(seconds.items())
    key_s = max(0.0, 2 * (long_s / long - short_s / short) / (long - short)) if any(is_softmax) else 0.0
    token_s = long_s / long - key_s * long / 2
    return Costs(is_softmax=is_softmax, token_s=token_s, key_s=key_s, other_s=max(0.0, other_s / long))


def best_cut(costs: Costs, num_tokens: int, num_ranks: int) -> list[range]:
    """Of the cuts that were tried, the one that is done first."""
    growth = costs.key_s / (costs.token_s + costs.other_s)
    cuts = [
        cut_prompt(num_tokens, num_ranks, growth=share * growth, first_cost=costs.first_cost) for share in TRIED_GROWTHS
    ]
    return min(cuts, key=lambda pieces: seconds_of(costs, pieces))


def predicted_s(costs: Costs, num_tokens: int, num_ranks: int) -> float:
    return seconds_of(costs, best_cut(costs, num_tokens, num_ranks))


def seconds_of(costs: Costs, pieces: Sequence[range]) -> float:
    num_ranks, at_s = len(pieces), [0.0] * len(pieces)
    gather_s = costs.latency_s + num_ranks * costs.state_nbytes / costs.bytes_per_s if num_ranks > 1 else 0.0
    keys_s = costs.latency_s + pieces[-1].stop * costs.token_kv_nbytes / costs.bytes_per_s if num_ranks > 1 else 0.0
    for is_softmax in costs.is_softmax:
        layer_s = [costs.layer_s(is_softmax, piece, rank) for rank, piece in enumerate(pieces)]
        before_s = [0.0 if is_softmax else one_s / 2 for one_s in layer_s]
        ready_s = [at + before for at, before in zip(at_s, before_s, strict=True)]
        for rank in range(1, num_ranks):
            waits_s = max(ready_s) + (keys_s if is_softmax else gather_s + rank * costs.fold_s)
            at_s[rank] = waits_s + layer_s[rank] - before_s[rank]
        at_s[0] += layer_s[0]
    return max(at_s)


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
        "layer by layer: linear c$_r$ = (a/L + e/linear (r>0)) n$_r$, after half of it all ranks' states;"
        " softmax c$_r$ = a n$_r$/L + b (end$_r^2$ - start$_r^2$)/2/softmax,\n"
        "after all ranks' keys; gathers take latency + bytes/bandwidth (+ r folds); dots are measured",
        fontsize=6,
    )
    figure.savefig(path, dpi=110)
