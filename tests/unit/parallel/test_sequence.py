"""LASP-2 over gloo: tokens' outputs and the last state are the recurrence's, whoever holds which tokens."""

import threading
from collections.abc import Iterator

import pytest
import torch

from tests.unit.model.linear.recurrence import KINDS, Inputs, error, inputs, recurrence
from tests.unit.parallel.ranks import Threads, threads
from workers.parallel.gathering import SequenceRanks
from workers.parallel.halo import Halo
from workers.parallel.pieces import cut_prompt
from workers.parallel.sequence import linear_attention
from workers.parallel.softmax import KeysAndValues, causal_attention


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def gang(request: pytest.FixtureRequest) -> Iterator[Threads]:
    with threads(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[Threads]:
    with threads(2) as found:
        yield found


def in_pieces(gang: Threads, given: Inputs, *, growth: float = 0.0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Outputs of all tokens, and each rank's last state."""

    def run(ranks: SequenceRanks) -> tuple[torch.Tensor, torch.Tensor]:
        piece = cut_prompt(len(given.q), ranks.size, growth=growth)[ranks.rank]
        rows = [None if x is None else x[piece.start : piece.stop] for x in given.args()[:-1]]
        out, last = linear_attention(ranks, *rows, given.state)
        return out, last()

    found = gang.run(run)
    return torch.cat([out for out, _ in found]), [last for _, last in found]


@pytest.mark.parametrize("gates", ["usual", "near 0", "near 1", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 3, 130])
def test_outputs_and_last_states_are_the_recurrences(gang: Threads, kind: str, gates: str, num_tokens: int) -> None:
    given = inputs(kind, gates, num_tokens)
    expected, expected_state = recurrence(given)
    out, lasts = in_pieces(gang, given)
    assert error(out, expected) < 1e-5
    for last in lasts:
        assert error(last, expected_state) < 1e-5
        assert torch.equal(last, lasts[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_in_chunks_continues_from_the_last_state(pair: Threads, kind: str) -> None:
    given = inputs(kind, "mixed", 100)
    expected, _ = recurrence(given)
    outputs, state = [], given.state
    for start, end in ((0, 37), (37, 38), (38, 100)):
        rows = [None if x is None else x[start:end] for x in given.args()[:-1]]
        out, lasts = in_pieces(pair, Inputs(*rows, state), growth=0.01)  # type: ignore[arg-type]
        outputs.append(out)
        state = lasts[1]
    assert error(torch.cat(outputs), expected) < 1e-5


@pytest.mark.parametrize(
    ("kind", "floats"),
    [
        ("plain", 2 * 16 * 24),
        ("scalar", 2 * (16 * 24 + 1)),
        ("vector", 2 * 16 * (24 + 1)),
        ("delta", 2 * 16 * (24 + 16)),
        ("delta-scalar", 2 * 16 * (24 + 16)),
        ("delta-vector", 2 * 16 * (24 + 16)),
    ],
)
def test_a_layer_moves_as_many_bytes_for_long_prompts_as_for_short(pair: Threads, kind: str, floats: int) -> None:
    given = inputs(kind, "usual", 1024)

    def moved(times: int) -> list[tuple[int, int]]:
        def run(ranks: SequenceRanks) -> tuple[int, int]:
            rows = [None if x is None else x.expand(len(x), *x.shape[1:]) for x in given.args()[:-1]]
            rows = [None if x is None else x.repeat(times, *[1] * (x.dim() - 1)) for x in rows]
            piece = cut_prompt(1024 * times, 2)[ranks.rank]
            rows = [None if x is None else x[piece.start : piece.stop] for x in rows]
            linear_attention(ranks, *rows, given.state)[1]()
            return ranks.states.num_gathers, ranks.states.num_bytes

        return pair.run(run)

    for times in (1, 4, 16, 64):
        assert moved(times) == [(1, floats * 4 * 2)] * 2


@pytest.mark.parametrize("lengths", [(5, 9), (1, 1), (2, 0), (0, 2), (0, 0)])
def test_a_convolution_sees_the_inputs_before_its_piece(pair: Threads, lengths: tuple[int, int]) -> None:
    reach, width = 3, 4
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(reach + sum(lengths), width, generator=random)
    before, tokens = rows[:reach], rows[reach:]
    starts = (0, lengths[0])

    def run(ranks: SequenceRanks) -> tuple[torch.Tensor, torch.Tensor]:
        mine = tokens[starts[ranks.rank] :][: lengths[ranks.rank]]
        halo = Halo(ranks, mine[-reach:], lengths, before)
        return halo.wait(), halo.last()

    for start, (halo, last) in zip(starts, pair.run(run), strict=True):
        assert torch.equal(halo, rows[start : start + reach])
        assert torch.equal(last, rows[-reach:])


@pytest.mark.parametrize("num_cached", [0, 21])
@pytest.mark.parametrize("num_tokens", [1, 2, 700, 1300])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_softmax_layers_see_all_keys_up_to_their_own(
    gang: Threads, num_kv_heads: int, num_tokens: int, num_cached: int
) -> None:
    random = torch.Generator().manual_seed(1)
    total = num_cached + num_tokens
    query = torch.randn(num_tokens, 4, 8, generator=random)
    keys, values = (
        torch.randn(total, num_kv_heads, 8, generator=random),
        torch.randn(total, num_kv_heads, 6, generator=random),
    )

    def run(ranks: SequenceRanks) -> torch.Tensor:
        pieces = cut_prompt(num_tokens, ranks.size, num_cached=num_cached, growth=0.01)
        piece = pieces[ranks.rank]
        k, v = keys[piece.start : piece.stop], values[piece.start : piece.stop]
        gathered = KeysAndValues(ranks, k, v, [len(one) for one in pieces])
        seen = [torch.cat([x[:num_cached], y]) for x, y in zip((keys, values), gathered.seen(), strict=True)]
        mine = query[piece.start - num_cached : piece.stop - num_cached]
        out = causal_attention(mine, *seen, scale=0.3)
        for x, y in zip((keys, values), gathered.wait(), strict=True):
            assert torch.equal(x[num_cached:], y)
        return out

    found = torch.cat(gang.run(run))
    scores = torch.einsum("qhgd,khd->hgqk", query.double().view(num_tokens, num_kv_heads, -1, 8), keys.double()) * 0.3
    mask = torch.arange(total) <= torch.arange(num_cached, total)[:, None]
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = torch.einsum("hgqk,khd->qhgd", weights, values.double()).flatten(1, 2)
    assert error(found, expected) < 1e-5


def test_a_rank_that_needs_no_other_does_not_wait(pair: Threads) -> None:
    """The first rank is done with a layer though the second has not come to it."""
    given = inputs("scalar", "usual", 8)

    first_is_done = threading.Event()

    def run(ranks: SequenceRanks) -> None:
        if ranks.rank == 1:
            assert first_is_done.wait(10)
        _, last = linear_attention(ranks, *given.args())
        if ranks.rank == 0:
            first_is_done.set()
        last()

    pair.run(run)
