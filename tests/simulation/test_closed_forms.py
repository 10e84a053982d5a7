"""The simulator beside queueing theory: Poisson arrivals of equal prompts, one prompt a step, one output token.

M/D/1 and its two-way forms as in DistServe (Zhong et al., OSDI 2024, section 3.1); D is a prompt's time, R the rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.latency import PromptChunk
from cluster.contracts.simulation import Arrival, SimCluster, SimPool
from cluster.simulator.world import simulate
from workers.spec import Role

PROMPT_TOKENS = 64
PROMPT_S = 0.1
SPEED_UP = 1.7  # of two-way intra-op parallelism
SEED = 20240401
NO_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Every step takes `seconds`, whatever is in it."""

    seconds: float
    pipeline_stages: int = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return self.seconds

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return self.seconds * num_steps


def poisson(rate: float, num_requests: int) -> list[Arrival]:
    gaps = np.random.default_rng(SEED).exponential(1 / rate, num_requests)
    return [Arrival(at_s=float(at_s), num_prompt_tokens=PROMPT_TOKENS, num_output_tokens=1) for at_s in np.cumsum(gaps)]


def ttfts_s(latency: Constant, arrivals: list[Arrival]) -> np.ndarray:
    pool = SimPool(role=Role.MIXED, num_workers=1, latency=latency, num_blocks=100_000)
    cluster = SimCluster(
        pools=[pool],
        engine=EngineConfig(max_batched_tokens=PROMPT_TOKENS, max_sequences=64, prefix_cache=False),
        router=RouterConfig(max_queue=NO_LIMIT, max_running=NO_LIMIT, request_timeout_s=NO_LIMIT),
    )
    records = simulate(cluster, arrivals, seed=0).records
    assert not [record for record in records if record.error]
    return np.array([record.ttft_s for record in records])


def single(rate: float) -> float:
    return PROMPT_S + rate * PROMPT_S**2 / (2 * (1 - rate * PROMPT_S))


def inter_op(rate: float) -> float:
    return PROMPT_S + rate * PROMPT_S**2 / (4 * (2 - rate * PROMPT_S))


def intra_op(rate: float) -> float:
    return PROMPT_S / SPEED_UP + rate * PROMPT_S**2 / (2 * SPEED_UP * (SPEED_UP - rate * PROMPT_S))


FORMS = {
    "single": (Constant(seconds=PROMPT_S), PROMPT_S, single),
    "inter_op": (Constant(seconds=PROMPT_S, pipeline_stages=2), PROMPT_S / 2, inter_op),
    "intra_op": (Constant(seconds=PROMPT_S / SPEED_UP), PROMPT_S / SPEED_UP, intra_op),
}


@pytest.mark.parametrize(
    ("load", "num_requests"),
    [
        (0.2, 10_000),
        pytest.param(0.4, 20_000, marks=pytest.mark.slow),
        pytest.param(0.6, 100_000, marks=pytest.mark.slow),
        pytest.param(0.8, 400_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_mean_ttft_is_that_of_queueing_theory(form: str, load: float, num_requests: int) -> None:
    latency, slot_s, closed_form = FORMS[form]
    rate = load / slot_s
    assert np.mean(ttfts_s(latency, poisson(rate, num_requests))) == pytest.approx(closed_form(rate), rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_each_prompt_waits_for_the_one_before_it(form: str) -> None:
    """Lindley's recursion, request by request."""
    latency, slot_s, _ = FORMS[form]
    arrivals = poisson(0.9 / slot_s, 2_000)
    expected, free_s = [], 0.0
    for arrival in arrivals:
        start_s = max(arrival.at_s, free_s)
        free_s = start_s + slot_s
        expected.append(start_s + latency.seconds - arrival.at_s)
    assert ttfts_s(latency, arrivals) == pytest.approx(np.array(expected), abs=1e-6)
