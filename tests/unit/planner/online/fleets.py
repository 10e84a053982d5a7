"""Toy fleets and loads whose best setup is known."""

from collections.abc import Callable, Sequence

import numpy as np

from cluster.config.schema import EngineConfig, PlannerConfig, RouterConfig
from cluster.contracts.simulation import Arrival, SimCluster, SimPool, SimResult
from cluster.contracts.slo import SLO
from cluster.contracts.tuning import UNTUNED
from cluster.planner.online.autopilot import Autopilot
from cluster.planner.online.calibration import Calibration, SeenLatency
from cluster.planner.online.candidates import Bounds
from cluster.planner.online.rehearsal import Rehearsal
from cluster.planner.online.setup import Setup
from cluster.planner.online.twin import Twin
from cluster.simulator.world import simulate
from workers.spec import Role

LATENCY = SeenLatency(prompt_s=0.02, token_s=1e-4, decode_s=0.03, sequence_s=2e-3)
SLO_ = SLO(ttft_s=1.0, tpot_s=0.06)
ENGINE = EngineConfig(max_batched_tokens=1024, max_sequences=32, block_size=64, prefix_cache=False)
Lengths = Callable[[float, np.random.Generator], tuple[int, int]]


def planner(**changes: object) -> PlannerConfig:
    told: dict[str, object] = {"mode": "act", "interval_s": 20.0, "window_s": 60.0, "cooldown_s": 40.0}
    return PlannerConfig(**{**told, **changes})  # type: ignore[arg-type]


def fleet(**counts: int) -> SimCluster:
    return SimCluster(
        pools=tuple(
            SimPool(role=Role(role), num_workers=count, latency=LATENCY, num_blocks=800)
            for role, count in counts.items()
        ),
        engine=ENGINE,
        router=RouterConfig(),
        max_model_len=8192,
        start_s=2.0,
    )


def autopilot(cluster: SimCluster, config: PlannerConfig, *, knows: bool = True, seed: int = 0) -> Autopilot:
    counts = {pool.role.value: pool.num_workers for pool in cluster.pools}
    setup = Setup(**counts, tuning=UNTUNED)
    return Autopilot(
        config,
        slo=SLO_,
        bounds=Bounds.of(config, setup, cluster.engine, cluster.router),
        twin=Twin(base=cluster),
        calibration=Calibration(latency={pool.role: pool.latency for pool in cluster.pools} if knows else {}),
        started_s=0.0,
        seed=seed,
    )


def load(rates: Sequence[float], step_s: float, lengths: Lengths, *, seed: int = 0) -> list[Arrival]:
    """Poisson, `rates[i]` from i * step_s on; `lengths` of the share of the whole that is over."""
    rng, at_s, arrivals = np.random.default_rng(seed), 0.0, list[Arrival]()
    for step, rate in enumerate(rates):
        at_s = max(at_s, step * step_s)
        while (at_s := at_s + float(rng.exponential(1 / rate))) < (step + 1) * step_s:
            prompt, output = lengths(at_s / (step_s * len(rates)), rng)
            arrivals.append(Arrival(at_s=at_s, num_prompt_tokens=prompt, num_output_tokens=output))
    return arrivals


def rehearse(
    cluster: SimCluster, arrivals: Sequence[Arrival], config: PlannerConfig, *, knows: bool = True, seed: int = 0
) -> tuple[Rehearsal, SimResult]:
    rehearsal = Rehearsal(autopilot=autopilot(cluster, config, knows=knows, seed=seed), simulate=simulate)
    return rehearsal, simulate(cluster, arrivals, seed=seed, pilot=rehearsal)


def attainment(result: SimResult) -> float:
    return sum(not one.error and SLO_.is_met(one.ttft_s, one.tpot_s) for one in result.records) / len(result.records)
