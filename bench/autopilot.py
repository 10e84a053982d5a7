"""The autopilot on a day whose load shifts from long prompts to long answers, against fleets that stay as they are.

    python -m bench.autopilot --trace AzureLLMInferenceTrace_conv.csv --plot docs/autopilot.png
    python -m bench.autopilot --hours 6                                   # the first hours alone

Eight workers, OPT-13B on one A100-80G each (DistServe's published coefficients), simulated with production's classes.
Compared are: the best of all fixed plans for the whole day; hindsight, the best plan of each hour, as if workers went
over at no cost between hours, each hour begun with empty queues; the autopilot, which begins with the best plan of the
first hour and knows the costs, but neither load nor lengths; and the same with up to eight workers, fewer when fewer
will do. `--keep FOLDER` keeps each part's result, so that the benchmark goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.autopilot_day import DAY_S, HOUR_S, HOURS, day, kinds
from bench.machine import processor
from bench.simulator import BLOCK_SIZE, LATENCY, NUM_BLOCKS, TOKEN_BYTES
from cluster.config.schema import EngineConfig, PlannerConfig, RouterConfig
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimPool
from cluster.contracts.slo import SLO
from cluster.planner.costs.transfer import Path as LinkPath
from cluster.planner.online.autopilot import Autopilot
from cluster.planner.online.calibration import Calibration
from cluster.planner.online.candidates import Bounds
from cluster.planner.online.rehearsal import Rehearsal
from cluster.planner.online.setup import Setup
from cluster.planner.online.twin import Twin
from cluster.simulator.world import simulate
from workers.spec import Role

NUM_WORKERS = 8
SLO_ = SLO(ttft_s=1.0, tpot_s=0.035, attainment=0.9)
PLANNER = PlannerConfig(mode="act", interval_s=10.0, window_s=50.0, cooldown_s=20.0)
BAR = 0.9  # of hindsight's requests served well
COARSE = 4  # blocks in one: simulated alike, in less time


def fleet(num_prefill: int) -> SimCluster:
    counts = {Role.PREFILL: num_prefill, Role.DECODE: NUM_WORKERS - num_prefill}
    return SimCluster(
        pools=tuple(
            SimPool(role=role, num_workers=count, latency=LATENCY, num_blocks=NUM_BLOCKS // COARSE)
            for role, count in counts.items()
        ),
        engine=EngineConfig(
            block_size=COARSE * BLOCK_SIZE, max_batched_tokens=2048, max_sequences=256, prefix_cache=False
        ),
        router=RouterConfig(),
        max_model_len=8192,
        num_layers=40,
        token_bytes=TOKEN_BYTES,
        transfer=LinkPath(bandwidth=25e9, latency_s=1e-4),
        start_s=10.0,
    )


def by_hour(records: Sequence[RequestRecord]) -> list[tuple[int, int]]:
    """(served well, all) of each hour, by arrival."""
    counts = [[0, 0] for _ in range(HOURS)]
    for one in records:
        hour = counts[min(int(one.arrived_s / HOUR_S), HOURS - 1)]
        hour[0] += not one.error and SLO_.is_met(one.ttft_s, one.tpot_s)
        hour[1] += 1
    return [(good, count) for good, count in counts]


def one_hour_each(num_prefill: int, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Each hour's load on a fleet that was empty before."""
    good = []
    for hour in range(HOURS):
        of_it = [one for one in arrivals if hour * HOUR_S <= one.at_s < (hour + 1) * HOUR_S]
        moved = [replace(one, at_s=one.at_s - hour * HOUR_S) for one in of_it]
        records = simulate(fleet(num_prefill), moved).records if moved else []
        good.append(sum(pair[0] for pair in by_hour(records)))
    return {"good": good}


def whole_day(num_prefill: int, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    result = simulate(fleet(num_prefill), arrivals)
    return {"hours": by_hour(result.records), "worker_s": result.worker_s}


def piloted(num_prefill: int, arrivals: Sequence[Arrival], config: PlannerConfig) -> dict[str, Any]:
    cluster = fleet(num_prefill)
    setup = Setup(prefill=num_prefill, decode=NUM_WORKERS - num_prefill)
    autopilot = Autopilot(
        config,
        slo=SLO_,
        bounds=Bounds.of(config, setup, cluster.engine, cluster.router),
        twin=Twin(base=cluster),
        calibration=Calibration(latency={pool.role: pool.latency for pool in cluster.pools}),
        started_s=0.0,
    )
    rehearsal = Rehearsal(autopilot=autopilot, simulate=simulate)
    began_s = time.process_time()
    result = simulate(cluster, arrivals, pilot=rehearsal)
    return {
        "hours": by_hour(result.records),
        "worker_s": result.worker_s,
        "setups": [(at_s, setup.prefill, setup.decode) for at_s, setup in rehearsal.setups],
        "decisions": [asdict(one) for one in rehearsal.decisions],
        "num_simulated": rehearsal.num_simulated,
        "cpu_s": time.process_time() - began_s,
    }


class Parts:
    """Results by name, kept in a folder if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self._folder / f"{name}.json" if self._folder is not None else None
        if path is not None and path.exists():
            kept: dict[str, Any] = json.loads(path.read_text())
            return kept
        made = make()
        print(f"{name} done", flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made))
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--hours", type=int, default=HOURS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    of = kinds(args.trace)
    arrivals = day(of, hours=args.hours)
    print(f"{processor()}; {len(arrivals)} requests over {args.hours} hours of {HOUR_S:.0f} s each, {of.source}")
    parts = Parts(args.keep)
    splits = range(1, NUM_WORKERS)
    alone = {split: parts.get(f"hours-{split}", lambda s=split: one_hour_each(s, arrivals))["good"] for split in splits}
    best = sorted(splits, key=lambda split: -sum(alone[split]))[:2]
    statics = {split: parts.get(f"static-{split}", lambda s=split: whole_day(s, arrivals)) for split in best}
    static = max(statics, key=lambda split: _good(statics[split]))
    first = max(splits, key=lambda split: alone[split][0])
    roles = parts.get("roles", lambda: piloted(first, arrivals, PLANNER))
    elastic = replace(PLANNER, max_workers=NUM_WORKERS)
    number = parts.get("number", lambda: piloted(first, arrivals, elastic))
    hindsight = [max(alone[split][hour] for split in splits) for hour in range(HOURS)]
    _tell(statics[static], static, hindsight, roles, number)
    if args.plot is not None:
        from bench.autopilot_plot import draw

        draw(args.plot, statics[static], hindsight, roles, number, title=f"{len(arrivals)} requests, {of.source}")


def _good(part: dict[str, Any]) -> int:
    return sum(good for good, _ in part["hours"])


def _tell(
    static: dict[str, Any], split: int, hindsight: Sequence[int], roles: dict[str, Any], number: dict[str, Any]
) -> None:
    total = sum(count for _, count in static["hours"])
    scale = 24 * 3600 / DAY_S / 3600  # a worker's hours of the day that was pressed together
    print(f"{'':34} attainment  of hindsight  worker-hours  changes")
    for name, good, worker_s, changes in (
        (f"static best ({split} prefill)", _good(static), static["worker_s"], 0),
        ("hindsight, the best plan each hour", sum(hindsight), NUM_WORKERS * DAY_S, None),
        ("autopilot, roles", _good(roles), roles["worker_s"], _num_changes(roles)),
        ("autopilot, roles and number", _good(number), number["worker_s"], _num_changes(number)),
    ):
        told = "free" if changes is None else str(changes)
        print(f"{name:34} {good / total:10.1%}  {good / sum(hindsight):12.1%}  {worker_s * scale:12.1f}  {told:>7}")
    looks = roles["num_simulated"]
    print(f"autopilot's looks simulated {looks} requests; with the day {roles['cpu_s']:.0f} s of CPU")
    share = _good(roles) / sum(hindsight)
    print(f"bar: {BAR:.0%} of hindsight: {'met' if share >= BAR else 'missed'} ({share:.1%})")


def _num_changes(part: dict[str, Any]) -> int:
    return sum(one["state"] in ("applied", "rolled back") for one in part["decisions"])


if __name__ == "__main__":
    main()
