"""Pieces of a prompt, each from a state that is folded from the effects of those before."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch

from tests.unit.model.linear.recurrence import KINDS, error, inputs, recurrence
from workers.model.linear import Piece, fold, make_piece, scan
from workers.model.linear.piece import KernelPiece


@pytest.mark.parametrize("gates", ["near 0", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(150,), (64, 70), (1, 0, 129), (3, 2, 1, 40), (1100, 30)])
def test_pieces_give_what_the_whole_gives(kind: str, gates: str, lengths: tuple[int, ...]) -> None:
    check(make_piece, kind, gates, lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_by_a_kernel_give_what_the_whole_gives(kind: str) -> None:
    check(functools.partial(KernelPiece, scan), kind, "usual", (70, 1, 33))


def check(make: Callable[..., Piece], kind: str, gates: str, lengths: tuple[int, ...]) -> None:
    given = inputs(kind, gates, sum(lengths))
    expected, expected_state = recurrence(given)
    ends = [0, *itertools.accumulate(lengths)]
    pieces = []
    for start, end in itertools.pairwise(ends):
        rows = [None if x is None else x[start:end] for x in given.args()[:-1]]
        pieces.append(make(*rows, given.state))
    effects = [piece.effect() for piece in pieces]
    effects = [effects[0].unpacked(effect.packed()) for effect in effects]
    for i, piece in enumerate(pieces):
        after = piece.advance(fold(effects[:i], given.state))
        torch.testing.assert_close(after, fold(effects[: i + 1], given.state), rtol=1e-4, atol=1e-5)
    assert error(torch.cat([piece.outputs() for piece in pieces]), expected) < 1e-5
    assert error(fold(effects, given.state), expected_state) < 1e-5
