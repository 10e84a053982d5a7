"""The benchmark compares like with like: a layer gives the same by one rank, by two, and by a ring."""

from collections.abc import Iterator

import pytest
import torch

from bench.sequence_layers import KINDS, SOFTMAX, Place, Stack, finish, make_layer
from bench.sequence_ring import Ring
from bench.sequence_scaling import costs_of, predicted_s
from tests.unit.parallel.ranks import Threads, threads
from workers.parallel.gathering import SequenceRanks
from workers.parallel.sequence import linear_attention

HIDDEN = 128
LENGTHS = [70, 31]


@pytest.fixture(scope="module")
def pair() -> Iterator[Threads]:
    with threads(2) as found:
        yield found


def alone(tokens: int) -> Place:
    return Place(SequenceRanks(None, rank=0, size=1), [tokens], linear_attention)


@pytest.mark.parametrize("passing", ["lasp2", "ring"])
@pytest.mark.parametrize("kind", [*KINDS, "stack"])
def test_two_ranks_give_what_one_gives(pair: Threads, kind: str, passing: str) -> None:
    x = torch.randn(sum(LENGTHS), HIDDEN, generator=torch.Generator().manual_seed(1))

    def run(place: Place, part: slice) -> torch.Tensor:
        if kind == "stack":
            stack = Stack(["kda", SOFTMAX], HIDDEN)
            out = stack(x[part], place)
            finish(stack.layers)
            return out
        layer = make_layer(kind, HIDDEN, 0)
        out = layer(x[part], place)
        finish([layer])
        return out

    def on_rank(ranks: SequenceRanks) -> torch.Tensor:
        recur = linear_attention if passing == "lasp2" else Ring(ranks.group)
        part = slice(LENGTHS[0]) if ranks.rank == 0 else slice(LENGTHS[0], None)
        return run(Place(ranks, LENGTHS, recur), part)

    expected = run(alone(len(x)), slice(None))
    torch.testing.assert_close(torch.cat(pair.run(on_rank)), expected, rtol=1e-4, atol=1e-5)


def test_a_prediction_repeats_what_it_was_made_from() -> None:
    costs = costs_of([False, False, False, True] * 4, {1000: 2.5, 4000: 16.0}, other_s=1.2)
    assert predicted_s(costs, 1000, 1) == pytest.approx(2.5)
    assert predicted_s(costs, 4000, 1) == pytest.approx(16.0)
    assert costs.other_s == pytest.approx(0.0003)
    assert 16.0 / predicted_s(costs, 4000, 2) == pytest.approx(2, rel=0.1)
