"""What traces cost an ingress: throughput, latency and CPU without them, at ratio 0.1 and at 1.0, beside each other.

    python -m bench.tracing              # 12 rounds, about 2 minutes
    python -m bench.tracing --quick      # 4 rounds, about 40 s
    python -m bench.tracing --rounds 30 --json out.json

The ingress is production's HTTP application, service and dispatcher, called in this process without a socket; a worker
that computes nothing (`bench.ingress_worker`) writes the tokens; a collector in a process of its own takes the spans.
Each round runs all three, in changing order, so that what else the machine does falls on all alike; the overhead is the
median over rounds of CPU time per request (all threads of the ingress, the one that sends spans too) against the round
without traces. Timelines are kept in all three: `off` has what every cluster has.
"""

import argparse
import asyncio
import http.server
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from fastapi import FastAPI

from bench.machine import announce
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.ingress.http_api import build_app
from cluster.ingress.service import Service
from cluster.ingress.tokenizer import Tokenizer
from cluster.ingress.tracing.export import Export
from cluster.ingress.tracing.otlp import OTLPSender
from cluster.ingress.tracing.visit import Visits
from cluster.router.dispatcher import Dispatcher
from cluster.router.workers import WorkerEntry
from workers.spec import Role

DEMO = Path(__file__).parents[1] / "workers" / "model" / "bundled" / "demo"
SECRET = "bench"
STEP_S = 0.004
STREAMS, ANSWER_TOKENS, REQUESTS = 32, 64, 256  # at once; of each; of one run
RATIOS: Mapping[str, float | None] = {"off": None, "0.1": 0.1, "1.0": 1.0}
Row = dict[str, float]


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes everything."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def collect() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextmanager
def started(*arguments: str) -> Iterator[int]:
    """A process that prints its port, for as long."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def ask(app: FastAPI, slot: int) -> float:
    """One streamed answer; how long it took, in seconds."""
    body = json.dumps({"prompt": [slot, *range(600, 632)], "max_tokens": ANSWER_TOKENS, "stream": True}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"bench")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    forever = asyncio.Event()

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await forever.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    began_s = time.monotonic()
    await app(scope, receive, send)
    return time.monotonic() - began_s


async def run(app: FastAPI) -> Row:
    """REQUESTS of them, STREAMS at a time."""
    slots = iter(range(REQUESTS))
    latencies: list[float] = []

    async def client() -> None:
        for slot in slots:
            latencies.append(await ask(app, slot))

    began_s, used_s = time.monotonic(), time.process_time()
    await asyncio.gather(*(client() for _ in range(STREAMS)))
    return {
        "cpu_us": (time.process_time() - used_s) / REQUESTS * 1e6,
        "requests_per_s": REQUESTS / (time.monotonic() - began_s),
        "p50_ms": median(latencies) * 1e3,
    }


async def measure(worker: int, collector: int, num_rounds: int) -> dict[str, list[Row]]:
    entry = WorkerEntry(worker_id="mixed-0", incarnation="0", role=Role.MIXED, address=f"127.0.0.1:{worker}")

    async def fetch() -> Sequence[WorkerEntry]:
        return [entry]

    config = RouterConfig()
    dispatcher = Dispatcher(
        ingress_id="bench", secret=SECRET, config=config, health=HealthConfig(), fetch_workers=fetch
    )
    await dispatcher.start()
    while not dispatcher.max_model_len:  # noqa: ASYNC110, it tells nobody
        await asyncio.sleep(0.01)
    tokenizer = Tokenizer(str(DEMO))
    apps, exports = {}, []
    for name, ratio in RATIOS.items():
        visits = Visits(ratio)
        if ratio is not None:
            exports.append(Export(lambda: OTLPSender(f"http://127.0.0.1:{collector}", "bench"), _refused))
            visits.on_left.append(exports[-1].take)
        service = Service(dispatcher=dispatcher, tokenizer=tokenizer, model="demo", router=config, visits=visits)
        apps[name] = build_app(service)
        await run(apps[name])
    rows: dict[str, list[Row]] = {name: [] for name in apps}
    for number in range(num_rounds):
        names = list(apps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rows[name].append(await run(apps[name]))
    for export in exports:
        await asyncio.to_thread(export.close)
    await dispatcher.close()
    return rows


def _refused(count: int) -> None:
    print(f"{count} requests' spans were dropped", file=sys.stderr)


def summary(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    lines = []
    for name, runs in rows.items():
        line: dict[str, Any] = {"ratio": name}
        line |= {key: round(median(run[key] for run in runs), 2) for key in runs[0]}
        for key in ("cpu_us", "requests_per_s", "p50_ms"):
            pairs = zip(runs, rows["off"], strict=True)
            line[f"{key}_percent"] = round(100 * (median(run[key] / off[key] for run, off in pairs) - 1), 2)
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="12, or 4 by --quick")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--collector", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collector:
        collect()
        return
    num_rounds = options.rounds or (4 if options.quick else 12)
    announce("bench.tracing", about_s=10 + 10 * num_rounds)
    with (
        started("bench.ingress_worker", "--secret", SECRET, "--step-s", str(STEP_S)) as worker,
        started("bench.tracing", "--collector") as collector,
    ):
        lines = summary(asyncio.run(measure(worker, collector, num_rounds)))
    print(f"{'ratio':>6}{'CPU us/request':>16}{'%':>8}{'requests/s':>12}{'%':>8}{'p50 ms':>9}{'%':>8}")
    for line in lines:
        print(
            f"{line['ratio']:>6}{line['cpu_us']:16.0f}{line['cpu_us_percent']:8.2f}{line['requests_per_s']:12.1f}"
            f"{line['requests_per_s_percent']:8.2f}{line['p50_ms']:9.1f}{line['p50_ms_percent']:8.2f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
