"""`baton simulate`: options in, a table and files out; the work is `cluster.simulator`'s."""

import json
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.cost_options import PANEL as COSTS
from cluster.commands.cost_options import CostOptions
from cluster.commands.files import check_outputs, check_picture, tell_written, writing
from cluster.commands.flag_checks import check_unread
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.option_groups import grouped
from cluster.commands.options import ConfigPath, ModelEntry, Overrides, load_one_model
from cluster.commands.simulate.options import RunOptions, SimulateOutput

if TYPE_CHECKING:
    from cluster.commands.simulate.inputs import SimulateInputs
    from cluster.contracts.simulation import SimResult
    from cluster.planner.online.rehearsal import Rehearsal
    from cluster.simulator.report import Report


@grouped
def command(
    costs: CostOptions,
    load: ArrivalOptions,
    run: RunOptions,
    output: SimulateOutput,
    config: ConfigPath = None,
    overrides: Overrides = None,
    entry: ModelEntry = None,
    model: Annotated[
        str | None, typer.Option(help="With --hardware: instead of the file's model.", rich_help_panel=COSTS)
    ] = None,
) -> None:
    """Run a cluster's policies under a virtual clock: what would this file do under that load?

    baton simulate cluster.yaml --profile profile.json --rate 10 --mix 0.7:200:80 --mix 0.3:1500:20

    baton simulate cluster.yaml --profile profile.json --trace t.csv --rate 10 --faults kill_decode@30s --out run.json

    baton simulate cluster.yaml --hardware h100 --trace azure_conv.csv --autopilot

    baton simulate cluster.yaml --hardware h100 --model meta-llama/Llama-3.1-8B --trace azure_conv.csv
    """
    from cluster.commands.simulate.inputs import read_inputs
    from cluster.simulator.report import summarize, to_json
    from cluster.simulator.world import simulate

    out, timeline = output.out, output.timeline
    sources = {"CLUSTER.YAML": config, "--profile": costs.profile, **load.files}
    check_outputs({"--out": out, "--timeline": timeline}, inputs=sources)
    check_picture(timeline, "--timeline")
    costs.check()
    if costs.profile is not None:
        check_unread({"--model": model}, "--profile is of its own model")
    inputs = read_inputs(load_one_model(config, overrides, entry=entry, model=model), costs, load, run)
    pilot = None
    if inputs.config.planner.mode == "act":
        from cluster.commands.simulate.pilot import rehearsal

        pilot = rehearsal(inputs.config, inputs.cluster, inputs.slo, seed=run.seed)
    result = simulate(
        inputs.cluster,
        inputs.arrivals,
        seed=run.seed,
        faults=inputs.faults,
        spans=timeline is not None,
        pilot=pilot,
    )
    report = summarize(result, inputs.cluster, inputs.slo)
    baseline = None
    if inputs.faults:
        baseline = summarize(simulate(inputs.cluster, inputs.arrivals, seed=run.seed), inputs.cluster, inputs.slo)
    _print(inputs, result, report, baseline)
    if pilot is not None:
        _print_decisions(pilot, result)
    if out is not None:
        content = to_json(
            report, result, seed=run.seed, faults=inputs.faults, without_faults=baseline, about=inputs.about
        )
        if pilot is not None:
            from cluster.commands.simulate.pilot import to_json as pilot_json

            content["autopilot"] = pilot_json(pilot, result)
        with writing(out, "--out"):
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if timeline is not None:
        from cluster.commands.simulate.picture import draw

        with writing(timeline, "--timeline"):
            draw(result, timeline, faults=inputs.faults, title=inputs.title)
    tell_written((out, timeline))


def _print_decisions(pilot: "Rehearsal", result: "SimResult") -> None:
    from rich.console import Console

    from cluster.commands.simulate.pilot import decisions_table

    Console(highlight=False, soft_wrap=True).print(decisions_table(pilot, result))


def _print(inputs: "SimulateInputs", result: "SimResult", report: "Report", baseline: "Report | None") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for note in inputs.notes:
        console.print(f"note: {note}")
    console.print(f"{inputs.title}, seed {inputs.about['load']['seed']}")
    for table in (_times(report, baseline), _counts(report, baseline, inputs), _workers(report)):
        console.print(table)
    console.print(f"{result.num_events} events in {result.end_s:.1f} s of virtual time, trace hash {result.trace_hash}")


def _times(report: "Report", baseline: "Report | None") -> Any:
    from rich.table import Table

    table = Table(title="times in ms", title_justify="left")
    table.add_column("")
    for name in ("mean", "p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for label, one in [("", report)] + ([(", without faults", baseline)] if baseline is not None else []):
        for name, times in (("TTFT", one.ttft), ("TPOT", one.tpot), ("E2E", one.e2e)):
            table.add_row(name + label, *map(_number, (times.mean, times.p50, times.p90, times.p99)))
    return table


def _number(value: float, num_digits: int = 2) -> str:
    return "-" if isnan(value) else f"{value:.{num_digits}f}"


def _counts(report: "Report", baseline: "Report | None", inputs: "SimulateInputs") -> Any:
    from rich.table import Table

    shown = [report] if baseline is None else [report, baseline]
    limits = f"within {inputs.slo.ttft_s * 1e3:g} ms TTFT, {inputs.slo.tpot_s * 1e3:g} ms TPOT"
    table = Table(show_header=baseline is not None)
    table.add_column("")
    for label in ("", "without faults")[: len(shown)]:
        table.add_column(label or "with faults", justify="right")

    def row(name: str, values: Sequence[str]) -> None:
        table.add_row(name, *values)

    row("requests finished", [f"{one.num_finished} of {one.num_requests}" for one in shown])
    if any(one.errors for one in shown):
        row("errors", [", ".join(f"{count} {code}" for code, count in one.errors.items()) or "none" for one in shown])
    row(limits, [f"{one.attainment:.1%} (wanted: {inputs.slo.attainment:.0%})" for one in shown])
    row("within TTFT, within TPOT", [f"{one.ttft_attainment:.1%}, {one.tpot_attainment:.1%}" for one in shown])
    row(
        "requests/s, output tokens/s",
        [f"{_number(one.requests_per_s)}, {_number(one.output_tokens_per_s, 0)}" for one in shown],
    )
    row("read by prefill workers", [str(one.num_disaggregated) for one in shown])
    row("prompt tokens found cached", [f"{one.cached:.1%}" for one in shown])
    row("retried, preempted", [f"{one.num_retried}, {one.num_preemptions}" for one in shown])
    row("KV sent", [f"{one.bytes_sent / 1e6:.1f} MB" for one in shown])
    return table


def _workers(report: "Report") -> Any:
    from rich.table import Table

    table = Table()
    table.add_column("worker")
    for name in ("time in steps", "blocks at most"):
        table.add_column(name, justify="right")
    shown = report.workers[:16]
    for worker in shown:
        table.add_row(worker.worker_id, f"{worker.busy:.1%}", f"{worker.peak_blocks:.1%}")
    if len(report.workers) > len(shown):
        rest = report.workers[len(shown) :]
        table.add_row(f"{len(rest)} more, mean", f"{sum(w.busy for w in rest) / len(rest):.1%}", "")
    return table
