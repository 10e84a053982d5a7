"""What draft tokens cost a layer of linear attention's recurrence, and how its state is best rid of rejected ones.

    python -m bench.draft_states
    python -m bench.draft_states --quick    # fewer sizes and rounds

On one core, float32, by size of state, sequences and tokens of each (a last token and drafts, half of which are
right): microseconds for one token without drafts; and for all tokens before and after it is known how many count: at
once, states left as they are and made afterwards in one product (what Baton does); token by token, with the state
after each kept; token by token, and those that count again. Beside: MiB of states that are kept meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from bench.machine import Quick, announce
from cluster.profiling.specs import available_cores
from workers.model.hybrid.mixer import Recurrence
from workers.model.linear import step
from workers.model.linear.trial import Trial, effects

SIZES = {  # of a state: heads, d_k = d_v, whether decays are one per channel
    "gated delta 8 x 32 x 32": (8, 32, False),
    "gated delta 32 x 128 x 128": (32, 128, False),
    "KDA 32 x 128 x 128": (32, 128, True),
}
CASE_S = 0.05  # of one round of a case, on one core


@dataclass(frozen=True, slots=True)
class Case:
    """B sequences of C tokens each, [B, C, ...], and the pool that their states lie in."""

    tokens: Recurrence
    states: Tensor  # [B, H, d_k, d_v]

    def at(self, place: int) -> Recurrence:
        """One token of each sequence."""
        return Recurrence(*(None if x is None else x[:, place] for x in self.tokens))  # type: ignore[arg-type]


def make_case(num_heads: int, dim: int, by_channel: bool, num_sequences: int, num_tokens: int) -> Case:
    rows = (num_sequences, num_tokens, num_heads)
    q, k, v = (torch.randn(*rows, dim) for _ in range(3))
    decays = -0.3 * torch.rand(*rows, dim) if by_channel else -0.3 * torch.rand(rows)
    tokens = Recurrence(q, F.normalize(k, dim=-1), v, decays, torch.rand(rows))
    return Case(tokens, torch.randn(num_sequences, num_heads, dim, dim))


@torch.inference_mode()
def measure(case: Case, rounds: int) -> str:
    slots = torch.arange(len(case.states))
    num_tokens = case.tokens.q.shape[1]
    num_right = (num_tokens + 1) // 2
    counts = torch.full((len(slots),), num_right)

    def put(states: Tensor) -> None:
        case.states.index_copy_(0, slots, states)

    def stepped(count: int) -> Sequence[Tensor]:
        """The states after each of the first tokens."""
        states = [case.states[slots]]
        for place in range(count):
            states.append(step(*case.at(place), states[-1])[1])
        return states[1:]

    trial, each = Trial(*case.tokens, case.states), stepped(num_tokens)
    before_us = [_best_us(act, rounds) for act in (
        lambda: put(stepped(1)[0]),
        lambda: Trial(*case.tokens, case.states[slots]),
        lambda: stepped(num_tokens),
    )]  # fmt: skip
    after_us = [_best_us(act, rounds) for act in (
        lambda: put(next(effects([trial], counts)).after(case.states[slots])),
        lambda: put(each[num_right - 1]),
        lambda: put(stepped(num_right)[-1]),
    )]  # fmt: skip
    one, at_once, by_steps = before_us
    product, chosen, again = after_us
    mib = num_tokens * case.states.nbytes / 2**20
    return (
        f"one token {one:6.0f} us; at once {at_once:6.0f} + {product:6.0f}; by steps {by_steps:6.0f} + {chosen:5.0f}"
        f" with {mib:.1f} MiB, or + {again:6.0f}"
    )


def _best_us(act: Callable[[], object], rounds: int) -> float:
    """Of the thread's own time, so that who shares the core does not count."""
    best_s = float("inf")
    for _ in range(rounds):
        began_s = time.thread_time()
        act()
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s * 1e6


def main(
    sequences: Annotated[str, typer.Option("--sequences", help="Comma-separated.")] = "1,4",
    tokens: Annotated[str, typer.Option("--tokens", help="Of each, comma-separated: powers of 2.")] = "2,4,8",
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 20,
    quick: Quick = False,
) -> None:
    """Ways to verify drafts of models that keep states."""
    torch.set_num_threads(1)
    batches, lengths = ([int(word) for word in words.split(",")] for words in (sequences, tokens))
    if any(length < 1 or length & (length - 1) for length in lengths):
        raise typer.BadParameter(f"{tokens}: each is a power of 2", param_hint="--tokens")
    if quick:
        batches, lengths, rounds = batches[:1], lengths[-1:], min(rounds, 5)
    about_s = len(SIZES) * len(batches) * len(lengths) * rounds * CASE_S
    announce("bench.draft_states", about_s=about_s, dtypes=["float32"], cores=available_cores()[:1])
    for name, size in SIZES.items():
        for num_sequences in batches:
            for num_tokens in lengths:
                found = measure(make_case(*size, num_sequences, num_tokens), rounds)
                print(f"{name:26} {num_sequences} x {num_tokens} tokens: {found}", flush=True)


if __name__ == "__main__":
    typer.run(main)
