"""The result as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.load.metrics import METRICS, PERCENTILES

_NAMES = {
    "ttft": "TTFT (to first token)",
    "tpot": "TPOT (per token)",
    "itl": "ITL (gaps)",
    "e2el": "E2EL (to last token)",
}
_STATISTICS = ("mean", "std", "median", *(f"p{q}" for q in PERCENTILES if q != 50))
LATE_MS = 10.0


def result_table(result: Mapping[str, Any]) -> RenderableType:
    """Totals, latencies, and a line per kind of error."""
    parts: list[RenderableType] = [_totals(result), _latencies(result)]
    for message, count in result["error_counts"].items():
        parts.append(Text(f"{count} x {message}", style="red"))
    if result["interrupted"]:
        parts.append(Text(f"{result['interrupted']} requests still running when interrupted are left out"))
    if result["p99_send_lag_ms"] > LATE_MS:
        parts.append(
            Text(
                f"1 % of the requests were sent {result['p99_send_lag_ms']:.0f} ms late or more: "
                "this machine is too busy to offer the load asked for",
                style="yellow",
            )
        )
    return Group(*parts)


def _totals(result: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    failed = f", {result['failed']} failed" if result["failed"] else ""
    table.add_row("Requests", f"{result['completed']} completed{failed} in {result['duration']:.2f} s")
    table.add_row("Load", _load(result))
    table.add_row("Tokens", f"{result['total_input_tokens']:,} in, {result['total_output_tokens']:,} out")
    table.add_row("Request throughput", f"{result['request_throughput']:.2f} /s")
    if result["request_goodput"] is not None:
        targets = " ".join(f"{name}:{limit:g}" for name, limit in result["goodput_targets_ms"].items())
        table.add_row(f"Request goodput ({targets} ms)", f"{result['request_goodput']:.2f} /s")
    table.add_row("Output throughput", f"{result['output_throughput']:.1f} tok/s")
    table.add_row("Total throughput", f"{result['total_token_throughput']:.1f} tok/s")
    return table


def _load(result: Mapping[str, Any]) -> str:
    if result["max_concurrency"] is not None:
        return f"{result['max_concurrency']} at once"
    if result["request_rate"] == "trace":
        return "the trace's times"
    return f"{result['request_rate']:g} /s, burstiness {result['burstiness']:g}"


def _latencies(result: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", header_style="bold")
    table.add_column("ms")
    for statistic in _STATISTICS:
        table.add_column(statistic, justify="right")
    for metric in METRICS:
        table.add_row(_NAMES[metric], *(f"{result[f'{statistic}_{metric}_ms']:.2f}" for statistic in _STATISTICS))
    return table
