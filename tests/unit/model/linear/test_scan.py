"""Chunked scans and batched steps against the recurrences, token by token, in float64."""

import pytest
import torch

from tests.unit.model.linear.recurrence import GATES, KINDS, Inputs, error, inputs, recurrence
from workers.model.linear import scan, step


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 7, 64, 150])
def test_a_scan_is_the_recurrence(kind: str, gates: str, num_tokens: int) -> None:
    given = inputs(kind, gates, num_tokens)
    expected, expected_state = recurrence(given)
    found, state = scan(*given.args())
    assert error(found, expected) < 1e-5
    assert error(state, expected_state) < 1e-5


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_recurrence(kind: str, gates: str) -> None:
    both = [inputs(kind, gates, 20, seed=seed) for seed in (1, 2)]
    state = torch.stack([one.state for one in both])
    outputs = []
    for t in range(20):
        rows = [[None if x is None else x[t] for x in one.args()[:-1]] for one in both]
        batch = [None if a is None else torch.stack([a, b]) for a, b in zip(*rows, strict=True)]
        found, state = step(*batch, state)
        outputs.append(found)
    for i, one in enumerate(both):
        expected, expected_state = recurrence(one)
        assert error(torch.stack(outputs)[:, i], expected) < 1e-5
        assert error(state[i], expected_state) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_inputs_are_computed_with_in_float32(kind: str) -> None:
    given = inputs(kind, "usual", 100).to(torch.bfloat16)
    expected, expected_state = recurrence(given)
    found, state = scan(*given.args())
    assert found.dtype == torch.bfloat16
    assert error(found, expected) < 4e-3  # the outputs' own rounding
    assert error(state, expected_state) < 1e-5
    stepped, _ = step(*(None if x is None else x[:1] for x in given.args()[:-1]), given.state[None])  # type: ignore[arg-type]
    assert error(stepped, expected[:1]) < 4e-3


@pytest.mark.parametrize("kind", KINDS)
def test_keys_may_be_shared_by_heads_and_nothing_given_is_changed(kind: str) -> None:
    whole = inputs(kind, "mixed", 100, heads=4)
    shared = [x[:, :1].expand(-1, 4, -1) for x in (whole.q, whole.k)]
    given = Inputs(*shared, whole.v, whole.log_decay, whole.beta, whole.state)
    before = [None if x is None else x.clone() for x in given.args()]
    expected, expected_state = recurrence(given)
    found, state = scan(*given.args())
    assert error(found, expected) < 1e-5
    assert error(state, expected_state) < 1e-5
    for now, then in zip(given.args(), before, strict=True):
        assert then is None or torch.equal(now, then)  # type: ignore[arg-type]


def test_no_token_leaves_the_state_as_it_is() -> None:
    given = inputs("delta-vector", "usual", 0)
    found, state = scan(*given.args())
    assert found.shape == (0, 2, 24)
    assert torch.equal(state, given.state)
