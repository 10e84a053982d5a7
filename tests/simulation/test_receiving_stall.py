"""A decode worker whose steps stand still while KV comes in, as DistServe's did."""

import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import Arrival, SimCluster, SimPool
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.simulator.world import simulate
from workers.spec import Role

LATENCY = CoefficientLatency(
    prefill=PrefillFit(base_s=0.1, per_token_s=0.0, per_square_s=0.0),
    decode_small=DecodeFit(base_s=0.02, per_context_s=0.0, per_sequence_s=0.0),
    decode_large=DecodeFit(base_s=0.02, per_context_s=0.0, per_sequence_s=0.0),
    large_from=95,
)


def test_decodes_wait_while_the_kv_of_others_comes_in() -> None:
    pools = [
        SimPool(role=Role.PREFILL, num_workers=1, latency=LATENCY, num_blocks=1000),
        SimPool(role=Role.DECODE, num_workers=1, latency=LATENCY, num_blocks=1000, receive_token_s=1e-4),
    ]
    cluster = SimCluster(
        pools=pools, engine=EngineConfig(prefix_cache=False), router=RouterConfig(disaggregate_over_tokens=0)
    )
    arrivals = [
        Arrival(at_s=0.0, num_prompt_tokens=100, num_output_tokens=101),
        Arrival(at_s=0.5, num_prompt_tokens=300, num_output_tokens=2),
    ]
    first, second = simulate(cluster, arrivals).records
    # Its own 100 tokens, 100 steps, and the other's 300 tokens in between.
    assert first.finished_s - first.first_token_s == pytest.approx(0.01 + 100 * 0.02 + 0.03)
    # To the end of the step in flight, its own 300 tokens, one step.
    assert 0.03 + 0.02 <= second.finished_s - second.first_token_s <= 0.03 + 0.02 + 0.02
