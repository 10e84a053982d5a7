"""This project's own cluster on this machine: profiled, run for real, and simulated with the same arrivals."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.fidelity.compare import Summary, latencies_ms, summarize
from bench.fidelity.real_runs import SetUp, run_for_real
from cluster.commands.simulate.costs import from_profile
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster
from cluster.planner.load.workload import mean_rate
from cluster.simulator.world import simulate

METRICS = ("TTFT P50", "TTFT P90", "TPOT P50", "TPOT P90")
MAX_ERRORS = (0.10, 0.15, 0.10, 0.15)  # of METRICS
MAX_LOAD = 0.85  # of saturation: up to it the errors have a bar
UNLIMITED = 1 << 20
MIN_AT_ONCE = 600  # requests that saturation is simulated with


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnComparison:
    """Percentiles in ms, in order of METRICS.

    Attributes:
        load: The arrivals' rate, over what the simulated cluster serves when all are there at once.
        simulated: One row for each profile of the machine.
        measured: One row for each repeated real run.
    """

    name: str
    load: float
    simulated: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...]

    @property
    def predicted(self) -> tuple[float, ...]:
        return _medians(self.simulated)

    @property
    def medians(self) -> tuple[float, ...]:
        """Of the repeated runs."""
        return _medians(self.measured)

    @property
    def errors(self) -> tuple[float, ...]:
        return tuple(mine / theirs - 1 for mine, theirs in zip(self.predicted, self.medians, strict=True))

    @property
    def spreads(self) -> tuple[float, ...]:
        """Largest less smallest of the repeated runs, over their median; 0 for one run."""
        widths = np.ptp(np.array(self.measured), axis=0)
        return tuple(float(width) / middle for width, middle in zip(widths, self.medians, strict=True))

    @property
    def allowed(self) -> tuple[float, ...]:
        return tuple(max(bar, 2 * spread) for bar, spread in zip(MAX_ERRORS, self.spreads, strict=True))

    @property
    def counts(self) -> bool:
        return self.load <= MAX_LOAD

    @property
    def misses(self) -> list[str]:
        """Metrics beyond what is allowed."""
        rows = zip(METRICS, self.errors, self.allowed, strict=True)
        return [f"{name} {error:+.0%}" for name, error, allowed in rows if abs(error) > allowed]


def _medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.median(rows, axis=0))


def compare(
    set_ups: Sequence[SetUp], profile: Callable[[int], Path], *, repeats: int, note: Callable[[str], None]
) -> list[OwnComparison]:
    """Runs every set-up `repeats` times, round by round, so that a slow moment of the machine meets them all.

    Args:
        profile: What `baton profile` measured of this machine before the round of that number: a virtual machine is
            faster at one time and slower at another, by more than the errors looked for.
        note: Told what is under way.
    """
    measured: dict[str, list[tuple[float, ...]]] = {set_up.name: [] for set_up in set_ups}
    profiles: list[Path] = []
    for number in range(repeats):
        profiles.append(profile(number))
        for set_up in set_ups:
            busy = f"load average {os.getloadavg()[0]:.1f} before"
            note(f"real run {number + 1} of {repeats}: {set_up.name}, {len(set_up.arrivals)} requests, {busy}")
            summary = _summary(set_up.name, run_for_real(set_up.config, set_up.arrivals))
            measured[set_up.name].append(summary.percentiles)
    return [_compared(set_up, dict.fromkeys(profiles), tuple(measured[set_up.name])) for set_up in set_ups]


def _compared(set_up: SetUp, profiles: Iterable[Path], measured: tuple[tuple[float, ...], ...]) -> OwnComparison:
    clusters = [from_profile(set_up.config, path)[0] for path in profiles]
    results = [simulate(cluster, set_up.arrivals, seed=0) for cluster in clusters]
    saturation = np.median([saturation_rate(cluster, set_up.arrivals) for cluster in clusters])
    return OwnComparison(
        name=set_up.name,
        load=float(mean_rate(set_up.arrivals) / saturation),
        simulated=tuple(_summary(set_up.name, result.records).percentiles for result in results),
        measured=measured,
    )


def saturation_rate(cluster: SimCluster, arrivals: Sequence[Arrival]) -> float:
    """Requests/s of the simulated cluster when all are there from the start.

    Few requests are taken several times over, so that the last ones' end weighs little; not where prompts share blocks,
    as copies would share them all.
    """
    patient = replace(cluster.router, max_queue=UNLIMITED, max_running=UNLIMITED, request_timeout_s=float(UNLIMITED))
    copies = 1 if any(arrival.block_hashes for arrival in arrivals) else -(-MIN_AT_ONCE // len(arrivals))
    at_once = [replace(arrival, at_s=0.0) for arrival in arrivals] * copies
    return len(at_once) / simulate(replace(cluster, router=patient), at_once, seed=0).end_s


def _summary(name: str, records: Sequence[RequestRecord]) -> Summary:
    failed = [record for record in records if record.error]
    if failed:
        raise RuntimeError(f"{name}: {len(failed)} of {len(records)} requests failed, first {failed[0].error}")
    return summarize(*latencies_ms(records), (float("inf"), float("inf")))


def own_table(comparisons: Sequence[OwnComparison]) -> Table:
    table = Table(title="This machine, our own cluster: medians predicted / measured, ms; spread of repeated real runs")
    table.add_column("set-up")
    table.add_column("load", justify="right")
    for name in METRICS:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for comparison in comparisons:
        rows = zip(comparison.predicted, comparison.medians, comparison.errors, comparison.spreads, strict=True)
        verdict = "within" if not comparison.misses else "beyond: " + ", ".join(comparison.misses)
        table.add_row(
            comparison.name,
            f"{comparison.load:.0%}",
            *(f"{mine:,.1f} / {theirs:,.1f} ({error:+.0%}, ±{spread / 2:.0%})" for mine, theirs, error, spread in rows),
            verdict if comparison.counts else "saturated: no bar",
        )
    return table


def own_verdict(comparisons: Sequence[OwnComparison]) -> str:
    counted = [comparison for comparison in comparisons if comparison.counts]
    num_all = len(METRICS) * len(counted)
    num_within = num_all - sum(len(comparison.misses) for comparison in counted)
    return (
        f"own cluster: {num_within} of {num_all} percentiles of the {len(counted)} set-ups up to {MAX_LOAD:.0%} of "
        "saturation are within 10 % (P50) and 15 % (P90), or within twice the spread of repeated real runs"
    )
