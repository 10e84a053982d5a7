"""A few tokens that may or may not count, against the recurrence over those that do, in float64."""

import pytest
import torch

from tests.unit.model.linear.recurrence import GATES, KINDS, Inputs, error, inputs, recurrence
from workers.model.linear.trial import Trial, effects


def first(given: Inputs, count: int) -> Inputs:
    return Inputs(*(None if x is None else x[:count] for x in given.args()[:-1]), given.state)  # type: ignore[arg-type]


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [2, 8])
def test_outputs_and_states_after_any_number_of_tokens_are_the_recurrences(
    kind: str, gates: str, num_tokens: int
) -> None:
    both = [inputs(kind, gates, num_tokens, seed=seed) for seed in (1, 2)]
    batch = [None if a is None else torch.stack([a, b]) for a, b in zip(*(one.args() for one in both), strict=True)]
    before = [None if x is None else x.clone() for x in batch]
    trial = Trial(*batch)  # type: ignore[arg-type]
    for which, one in enumerate(both):
        assert error(trial.outputs[which], recurrence(one)[0]) < 1e-5
    state = batch[-1]
    assert state is not None
    for counts in zip(range(1, num_tokens + 1), range(num_tokens, 0, -1), strict=True):
        after = next(effects([trial], torch.tensor(counts))).after(state)
        for which, count in enumerate(counts):
            assert error(after[which], recurrence(first(both[which], count))[1]) < 1e-5
    for now, then in zip(batch, before, strict=True):
        assert then is None or torch.equal(now, then)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_inputs_are_computed_with_in_float32(kind: str) -> None:
    given = inputs(kind, "usual", 4).to(torch.bfloat16)
    trial = Trial(*(None if x is None else x[None] for x in given.args()))  # type: ignore[arg-type]
    outputs, state = recurrence(given)
    assert trial.outputs.dtype == torch.bfloat16
    assert error(trial.outputs[0], outputs) < 4e-3
    (effect,) = effects([trial], torch.tensor([4]))
    assert error(effect.after(given.state[None])[0], state) < 1e-5
