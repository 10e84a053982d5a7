"""`baton simulate` with the autopilot at the controls."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cluster.config.schema import BatonConfig
from cluster.contracts.simulation import SimCluster, SimResult
from cluster.contracts.slo import SLO
from cluster.contracts.tuning import UNTUNED
from cluster.planner.online.autopilot import Autopilot
from cluster.planner.online.calibration import Calibration
from cluster.planner.online.candidates import Bounds
from cluster.planner.online.rehearsal import Rehearsal
from cluster.planner.online.setup import Setup
from cluster.planner.online.twin import Twin
from cluster.simulator.from_config import degrees_of
from cluster.simulator.world import simulate

if TYPE_CHECKING:
    from rich.table import Table

NUM_SHOWN = 40  # decisions


def rehearsal(config: BatonConfig, cluster: SimCluster, slo: SLO, *, seed: int) -> Rehearsal:
    """Of an autopilot that knows the costs that are simulated."""
    planner = config.planner
    counts = {pool.role.value: pool.num_workers for pool in cluster.pools}
    setup = Setup(**counts, tuning=UNTUNED)
    drafts = [pool.drafts.max_tokens for pool in cluster.pools if pool.drafts is not None]
    pools = config.pools
    bounds = Bounds.of(
        planner,
        setup,
        cluster.engine,
        cluster.router,
        roles_change=degrees_of(pools.prefill) == degrees_of(pools.decode),
        max_draft_tokens=max(drafts, default=0),
    )
    latency = {pool.role: pool.latency for pool in cluster.pools}
    calibration = Calibration(latency=latency, drafts_apart=bool(drafts))
    autopilot = Autopilot(
        planner,
        slo=slo,
        bounds=bounds,
        twin=Twin(base=cluster),
        calibration=calibration,
        started_s=0.0,
        costs="those that are simulated",
        seed=seed,
    )
    return Rehearsal(autopilot=autopilot, simulate=simulate)


def decisions_table(done: Rehearsal, result: SimResult) -> "Table":
    from rich.table import Table

    shown = done.decisions[-NUM_SHOWN:]
    left_out = f", the last {NUM_SHOWN} shown" if len(shown) < len(done.decisions) else ""
    table = Table(
        title=f"autopilot: {len(done.decisions)} decisions{left_out}; {result.worker_s / 3600:.2f} worker-hours",
        title_justify="left",
    )
    for name in ("at s", "state", "what", "why"):
        table.add_column(name, overflow="fold")
    for decision in shown:
        table.add_row(f"{decision.at_s:.0f}", decision.state.value, decision.what, decision.why)
    return table


def to_json(done: Rehearsal, result: SimResult) -> Mapping[str, Any]:
    return {
        "worker_hours": result.worker_s / 3600,
        "num_requests_simulated": done.num_simulated,
        "decisions": [asdict(decision) for decision in done.decisions],
        "setups": [{"from_s": at_s, **asdict(setup)} for at_s, setup in done.setups],
    }
