"""What is asked of a worker whose profile is taken."""

import pytest

from cluster.profiling.scenarios import WorkerLimits, scenarios

DEMO = WorkerLimits(max_model_len=2048, num_kv_tokens=349_520, max_batched_tokens=2048, max_sequences=64, block_size=16)
SMALL = WorkerLimits(max_model_len=96, num_kv_tokens=256, max_batched_tokens=2048, max_sequences=4, block_size=16)


@pytest.mark.parametrize("limits", [DEMO, SMALL])
@pytest.mark.parametrize("quick", [True, False])
def test_every_request_fits_the_worker(limits: WorkerLimits, quick: bool) -> None:
    plan = scenarios(limits, quick=quick)
    assert len({scenario.name for scenario in plan}) == len(plan)
    for scenario in plan:
        asks = [ask for wave in scenario.waves for ask in wave]
        assert all(ask.num_prefix_tokens <= ask.num_prompt_tokens for ask in asks), scenario.name
        assert max(ask.num_prompt_tokens + ask.num_outputs for ask in asks) <= limits.max_model_len
        assert scenario.num_prompt_tokens <= limits.num_kv_tokens


@pytest.mark.parametrize("quick", [True, False])
def test_prompts_and_contexts_reach_near_the_model_s_length_and_batches_the_worker_s(quick: bool) -> None:
    plan = scenarios(DEMO, quick=quick)
    assert max(scenario.waves[-1][0].num_prompt_tokens for scenario in plan) > 1700
    assert max(len(wave) for scenario in plan for wave in scenario.waves) == 64


def test_quick_asks_for_less_of_the_same_kinds() -> None:
    quick, full = (scenarios(DEMO, quick=quick) for quick in (True, False))
    assert len(quick) < len(full)
    assert sum(scenario.num_prompt_tokens for scenario in quick) < 0.5 * sum(s.num_prompt_tokens for s in full)
