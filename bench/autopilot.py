"""The autopilot on a day whose load shifts from long prompts to long answers, against fleets that stay as they are.

    python -m bench.autopilot --trace AzureLLMInferenceTrace_conv.csv --plot docs/autopilot.png
    python -m bench.autopilot --workers 8 --keep /var/tmp/day             # twice the fleet, twice the load

Workers are OPT-13B on one A100-80G each (DistServe's published coefficients), simulated with production's classes.
Compared are: the best of all fixed plans for the whole day; hindsight, the best plan of every two hours, as if workers
went over at no cost, each time begun with empty queues; the autopilot, which begins with the best plan of the first
two hours and knows the costs, but neither load nor lengths; and the same with fewer workers when they do.
`--only-roles` leaves the last one out. `--keep FOLDER` keeps each part's result, so that the benchmark goes on where it
stopped.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.autopilot_day import DAY_S, HOUR_S, HOURS, day, kinds
from bench.machine import announce
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

SLO_ = SLO(ttft_s=1.0, tpot_s=0.035, attainment=0.9)
PLANNER = PlannerConfig(mode="act", interval_s=12.0, window_s=36.0, cooldown_s=10.0)
SLOT_S = 2 * HOUR_S  # hindsight changes plans so often
BAR = 0.9  # of hindsight's requests served well
COARSE = 4  # blocks in one: simulated alike, in less time


NUM_SLOTS = HOURS // 2


Split = tuple[int, int]  # prefill and decode workers


def fleet(split: Split) -> SimCluster:
    counts = dict(zip((Role.PREFILL, Role.DECODE), split, strict=True))
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
    """(served well, all) of every two hours, by arrival."""
    counts = [[0, 0] for _ in range(NUM_SLOTS)]
    for one in records:
        hour = counts[min(int(one.arrived_s / SLOT_S), NUM_SLOTS - 1)]
        hour[0] += not one.error and SLO_.is_met(one.ttft_s, one.tpot_s)
        hour[1] += 1
    return [(good, count) for good, count in counts]


def two_hours_each(split: Split, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Each two hours' load on a fleet that was empty before."""
    good = []
    for slot in range(NUM_SLOTS):
        of_it = [one for one in arrivals if slot * SLOT_S <= one.at_s < (slot + 1) * SLOT_S]
        moved = [replace(one, at_s=one.at_s - slot * SLOT_S) for one in of_it]
        records = simulate(fleet(split), moved).records if moved else []
        good.append(sum(pair[0] for pair in by_hour(records)))
    return {"good": good}


def whole_day(split: Split, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    result = simulate(fleet(split), arrivals)
    return {"hours": by_hour(result.records), "worker_s": result.worker_s}


def piloted(split: Split, arrivals: Sequence[Arrival], config: PlannerConfig) -> dict[str, Any]:
    cluster = fleet(split)
    setup = Setup(prefill=split[0], decode=split[1])
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
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--only-roles", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="three workers, roles alone")
    args = parser.parse_args()
    announce("bench.autopilot", about_s=60 if args.quick else 240)
    if args.quick:
        args.workers, args.only_roles = 3, True
    of = kinds(args.trace)
    arrivals = day(of, args.workers)
    about = f"{len(arrivals)} requests over a day of {DAY_S / 60:.0f} minutes, {of.source}, {args.workers} workers"
    print(about, flush=True)
    parts = Parts(args.keep)
    splits = [(num_prefill, args.workers - num_prefill) for num_prefill in range(1, args.workers)]
    alone = {
        split: parts.get(f"hours-{split[0]}", partial(two_hours_each, split, arrivals))["good"] for split in splits
    }
    best = max(splits, key=lambda split: sum(alone[split]))
    static = parts.get(f"static-{best[0]}", partial(whole_day, best, arrivals))
    first = max(splits, key=lambda split: alone[split][0])
    roles = parts.get("roles", partial(piloted, first, arrivals, PLANNER))
    elastic = replace(PLANNER, max_workers=args.workers)
    number = None if args.only_roles else parts.get("number", partial(piloted, first, arrivals, elastic))
    hindsight = [max(alone[split][slot] for split in splits) for slot in range(NUM_SLOTS)]
    _tell(static, best, hindsight, roles, number)
    if args.plot is not None:
        from bench.autopilot_plot import draw

        draw(args.plot, static, hindsight, roles, number, title=about)


def _good(part: dict[str, Any]) -> int:
    return sum(good for good, _ in part["hours"])


def _tell(
    static: dict[str, Any],
    split: Split,
    hindsight: Sequence[int],
    roles: dict[str, Any],
    number: dict[str, Any] | None,
) -> None:
    total = sum(count for _, count in static["hours"])
    scale = 24 * 3600 / DAY_S / 3600  # a worker's hours of the day that was pressed together
    print(f"{'':34} attainment  of hindsight  worker-hours  changes")
    rows: list[tuple[str, int, float, int | None]] = [
        (f"static best, {split[0]} prefill + {split[1]} decode", _good(static), static["worker_s"], 0),
        ("hindsight, best plan every 2 hours", sum(hindsight), sum(split) * DAY_S, None),
        ("autopilot, roles", _good(roles), roles["worker_s"], _num_changes(roles)),
    ]
    if number is not None:
        rows.append(("autopilot, roles and number", _good(number), number["worker_s"], _num_changes(number)))
    for name, good, worker_s, changes in rows:
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
