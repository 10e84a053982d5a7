"""Linear attention on CUDA: flash-linear-attention's kernels, where installed, and torch against the recurrences."""

import importlib.util

import pytest
import torch

from tests.unit.model.linear.recurrence import KINDS, Inputs, error, inputs, recurrence
from workers.model.linear import fold, make_piece, scan, step
from workers.model.linear.kernels import kernel_for

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
needs_kernels = pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="no flash-linear-attention")


def on_cuda(given: Inputs, dtype: torch.dtype) -> Inputs:
    return given.to(dtype).on("cuda")


@pytest.mark.parametrize("gates", ["usual", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_in_float32_is_the_recurrence(kind: str, gates: str) -> None:
    given = on_cuda(inputs(kind, gates, 150, d_k=64, d_v=64), torch.float32)
    expected, expected_state = recurrence(given.on("cpu"))
    found, state = scan(*given.args())
    assert error(found.cpu(), expected) < 1e-5
    assert error(state.cpu(), expected_state) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_recurrence(kind: str) -> None:
    given = on_cuda(inputs(kind, "mixed", 1), torch.float32)
    expected, expected_state = recurrence(given.on("cpu"))
    found, state = step(*given.args()[:-1], given.state[None])
    assert error(found.cpu(), expected) < 1e-5
    assert error(state[0].cpu(), expected_state) < 1e-5


@needs_kernels
@pytest.mark.parametrize("gates", ["usual", "near 0", "near 1"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 150])
def test_kernels_are_the_recurrence_in_bfloat16(kind: str, gates: str, num_tokens: int) -> None:
    given = on_cuda(inputs(kind, gates, num_tokens, d_k=64, d_v=64), torch.bfloat16)
    assert kernel_for(given.q, given.log_decay, given.beta) is not None
    expected, expected_state = recurrence(given.on("cpu"))
    found, state = scan(*given.args())
    assert error(found.cpu(), expected) < 2e-2
    assert error(state.cpu(), expected_state) < 2e-2


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_by_kernels_give_what_the_whole_gives(kind: str) -> None:
    given = on_cuda(inputs(kind, "usual", 200, d_k=64, d_v=64), torch.bfloat16)
    expected, expected_state = recurrence(given.on("cpu"))
    rows = [[None if x is None else x[part] for x in given.args()[:-1]] for part in (slice(70), slice(70, None))]
    pieces = [make_piece(*one, given.state) for one in rows]
    effects = [piece.effect() for piece in pieces]
    for i, piece in enumerate(pieces):
        piece.advance(fold(effects[:i], given.state))
    assert error(torch.cat([piece.outputs() for piece in pieces]).cpu(), expected) < 2e-2
    assert error(fold(effects, given.state).cpu(), expected_state) < 2e-2
