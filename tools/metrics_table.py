"""Writes the tables of docs/metrics.md from what the code says of its metrics: `python -m tools.metrics_table`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; all else of the page is written by hand.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cluster.doors import accounts
from cluster.ingress import metrics
from cluster.ingress.telemetry import request_metrics, router_metrics, slo_metrics
from cluster.ingress.telemetry.vllm_names import vllm_metrics
from cluster.ingress.tracing import observing
from workers.telemetry.described import Described, counter, gauge
from workers.telemetry.families import worker_metrics

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
PROCESS: Sequence[Described] = (  # as prometheus_client has them, on Linux
    counter("process_cpu_seconds_total", "seconds", "Of CPU, of the process"),
    gauge("process_resident_memory_bytes", "bytes", "Of memory that it holds"),
    gauge("process_virtual_memory_bytes", "bytes", "Of addresses that it has"),
    gauge("process_start_time_seconds", "seconds", "Since the epoch, when it started"),
    gauge("process_open_fds", "files", "That it has open"),
    gauge("process_max_fds", "files", "That it may have open"),
)


def tables() -> Mapping[str, Sequence[Described]]:
    return {
        "requests": (metrics.INFO, *request_metrics.DESCRIBED),
        "slo": slo_metrics.DESCRIBED,
        "router": router_metrics.DESCRIBED,
        "fleet": router_metrics.OF_WORKERS,
        "workers": tuple(worker_metrics()),
        "keys": accounts.DESCRIBED,
        "observing": observing.DESCRIBED,
        "process": PROCESS,
        "vllm": tuple(vllm_metrics()),
    }


def exported() -> list[Described]:
    return [one for each in tables().values() for one in each]


def rows(described: Iterable[Described]) -> str:
    head = "| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or '-'} | {one.unit} | {one.text} |\n"
        for one in described
    )


def written(page: str) -> str:
    """The page with today's tables."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{rows(tables()[found[1]])}<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
