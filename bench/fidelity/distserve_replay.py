"""Replays the published runs through the simulator and compares."""

from collections.abc import Sequence, Set

from rich.table import Table

from bench.fidelity.calibrate import STEPS, fit, loss
from bench.fidelity.compare import Comparison, compare, latencies_ms, mean_attainment_error
from bench.fidelity.distserve_runs import DistserveRun
from bench.fidelity.distserve_systems import FITTED_RUNS, Constants, Published, sim_cluster
from bench.fidelity.vllm_server import server
from cluster.simulator.world import simulate

LIMITS_MS = (200.0, 100.0)  # of TTFT and TPOT in DistServe's own check of its simulator
SATURATED_ATTAINMENT = 50.0  # runs that attain less are past saturation: percentiles there are no bar


def runs_of(key: str, runs: Sequence[DistserveRun]) -> list[DistserveRun]:
    """Those that CONSTANTS[key] are for: a system's, or one server's of it."""
    return [run for run in runs if key in (run.system, server(run))]


def replay(run: DistserveRun, published: Published, constants: Constants, fitted: Set[str] = FITTED_RUNS) -> Comparison:
    """The same arrivals and lengths, through the production classes."""
    result = simulate(sim_cluster(run, published, constants), run.arrivals, seed=0)
    return compare(
        run.name,
        fitted=run.name in fitted,
        measured=(run.ttft_ms, run.tpot_ms),
        predicted=latencies_ms(result.records),
        limits_ms=LIMITS_MS,
    )


def fit_constants(runs: Sequence[DistserveRun], published: Published, start: Constants) -> Constants:
    """From `runs` alone, which are one system's."""
    names = [name for name in STEPS if name != "receive_token_s" or runs[0].decode is not None]
    found, _ = fit(start, names, lambda tried: loss([replay(run, published, tried) for run in runs]))
    return found


def comparison_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    """Predicted beside measured; attainment in percent, the rest in ms."""
    table = Table(title=title)
    table.add_column("run")
    table.add_column("constants")
    for column in ("attainment %", "TTFT P50", "TTFT P90", "TPOT P50", "TPOT P90"):
        table.add_column(f"{column}\npredicted / measured", justify="right")
    for comparison in comparisons:
        measured, predicted = comparison.measured, comparison.predicted
        pairs = zip(predicted.percentiles, measured.percentiles, comparison.errors, strict=True)
        table.add_row(
            comparison.name,
            "fitted" if comparison.fitted else "held out",
            f"{predicted.attainment:.1f} / {measured.attainment:.1f}",
            *(f"{mine:,.0f} / {theirs:,.0f} ({error:+.0%})" for mine, theirs, error in pairs),
        )
    return table


def verdicts(system: str, comparisons: Sequence[Comparison], max_points: float) -> list[str]:
    """One line for each bar."""
    lines = []
    light = [comparison for comparison in comparisons if comparison.measured.attainment >= SATURATED_ATTAINMENT]
    for label, some in (
        ("all", list(comparisons)),
        ("held out", [comparison for comparison in comparisons if not comparison.fitted]),
        ("below saturation", light),
    ):
        if some:
            error = mean_attainment_error(some)
            lines.append(
                f"{system}, {label} ({len(some)} runs): mean absolute error of attainment {error:.1f} points "
                f"({_met(error <= max_points)}, at most {max_points:g})"
            )
    beyond = [
        f"{comparison.name} {name} {error:+.0%}"
        for comparison in light
        for name, error in zip(("TTFT P50", "TTFT P90", "TPOT P50", "TPOT P90"), comparison.errors, strict=True)
        if abs(error) > 0.10
    ]
    lines.append(
        f"{system}, below saturation ({len(light)} runs): {4 * len(light) - len(beyond)} of {4 * len(light)} "
        f"percentiles within 10 %" + (f"; beyond: {', '.join(beyond)}" if beyond else "")
    )
    return lines


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"
