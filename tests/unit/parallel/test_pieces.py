"""How a prompt is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.parallel.pieces import cut_prompt


@given(
    num_tokens=st.integers(0, 5000),
    num_ranks=st.integers(1, 9),
    num_cached=st.integers(0, 5000),
    multiple=st.integers(1, 64),
    growth=st.floats(0, 1),
    first_cost=st.floats(0.1, 2),
)
def test_pieces_are_the_prompt_in_order(
    num_tokens: int, num_ranks: int, num_cached: int, multiple: int, growth: float, first_cost: float
) -> None:
    pieces = cut_prompt(
        num_tokens, num_ranks, num_cached=num_cached, multiple=multiple, growth=growth, first_cost=first_cost
    )
    assert len(pieces) == num_ranks
    assert list(itertools.chain(*pieces)) == list(range(num_cached, num_cached + num_tokens))
    assert all(piece.start % multiple == 0 for piece in pieces[1:] if piece and piece.start != num_cached)


def test_equal_costs_make_equal_pieces() -> None:
    assert cut_prompt(10, 4) == [range(3), range(3, 5), range(5, 8), range(8, 10)]


def test_a_prompt_shorter_than_the_gang_leaves_ranks_empty() -> None:
    assert [len(piece) for piece in cut_prompt(2, 4)] == [1, 0, 1, 0]
    assert [len(piece) for piece in cut_prompt(20, 4, multiple=16)] == [16, 0, 0, 4]


def test_a_cost_that_grows_makes_later_pieces_shorter() -> None:
    def cost(piece: range) -> float:
        return sum(1 + 0.01 * position for position in piece)

    pieces = cut_prompt(4000, 4, num_cached=100, growth=0.01)
    costs = [cost(piece) for piece in pieces]
    assert max(costs) / min(costs) < 1.01
    assert len(pieces[0]) > 2 * len(pieces[3])


def test_a_first_rank_to_which_a_token_costs_less_gets_more() -> None:
    assert [len(piece) for piece in cut_prompt(1100, 3, first_cost=0.75)] == [440, 330, 330]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_tokens": -1}, "num_tokens is -1; it must be at least 0"),
        ({"num_ranks": 0}, "num_ranks is 0; it must be at least 1"),
        ({"multiple": 0}, "multiple is 0; it must be at least 1"),
        ({"growth": -0.5}, "growth is -0.5; it must be at least 0"),
        ({"first_cost": 0}, "first_cost is 0; it must be above 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_prompt(**{"num_tokens": 8, "num_ranks": 2, **changed})  # type: ignore[arg-type]
