"""What ingress and proxy add to each token: from the worker's write to the client's read.

    python -m bench.ingress                      # HAProxy and Serve's Python proxy, HTTP and gRPC, 1, 16, 64 streams
    python -m bench.ingress --proxy haproxy --streams 64 --seconds 20 --json out.json
    python -m bench.ingress --quick            # 1 and 16 streams, 4 s each

A process that computes nothing (`bench.ingress_worker`) writes 50 tokens/s per stream, the tokens of all streams of a
step in one message, as the engine does: the last stream of a step waits for the work on all others. The route is the
real one: worker's gRPC stream, dispatcher, detokenizer, Serve replica, proxy, client. The client, in this process,
stamps what it reads; its own work is part of the figure.
"""

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from bench.machine import announce
from cluster.router.workers import WorkerEntry
from workers.spec import Role

DEMO = Path(__file__).parents[1] / "workers" / "model" / "bundled" / "demo"
SECRET = "bench"
MODEL = f"bench-{os.getpid()}"  # another cluster that took the same port would refuse it
RATE = 50.0
START_S = 20.0  # of Ray, Serve and a proxy, and their end
WARM_UP_TOKENS = 25  # of each stream, left out
Rows = list[dict[str, Any]]


class Stream(asyncio.Protocol):
    """One HTTP request; `times` has the moment at which each event was read."""

    def __init__(self, host: str, slot: int, max_tokens: int) -> None:
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""
        body = json.dumps(
            {"model": MODEL, "prompt": [slot], "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
        ).encode()
        self._request = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        self.times += [now_s] * sum(b'"text":' in event for event in events)
        if b"[DONE]" in data:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def http_times(port: int, num_streams: int, max_tokens: int) -> list[list[float]]:
    loop = asyncio.get_running_loop()
    streams = [Stream("ingress", slot, max_tokens) for slot in range(num_streams)]
    for stream in streams:
        await loop.create_connection(partial(_same, stream), "127.0.0.1", port)
    await asyncio.gather(*(stream.done for stream in streams))
    return [stream.times for stream in streams]


def _same(stream: Stream) -> Stream:
    return stream


async def grpc_times(port: int, num_streams: int, max_tokens: int) -> list[list[float]]:
    import grpc

    from baton.v1 import inference_pb2, inference_pb2_grpc

    async def read(stub: Any, slot: int) -> list[float]:
        request = inference_pb2.GenerateRequest(
            model=MODEL,
            prompt_token_ids=inference_pb2.TokenIds(ids=[slot]),
            sampling=inference_pb2.SamplingParams(max_tokens=max_tokens, ignore_eos=True),
        )
        times: list[float] = []
        async for response in stub.Generate(request):
            now_s = time.monotonic()
            times += [now_s for delta in response.deltas for _ in delta.token_ids]
        return times

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        return list(await asyncio.gather(*(read(stub, slot) for slot in range(num_streams))))


def delays_ms(sent: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", read: list[list[float]]) -> Any:
    """Raises: ValueError: a stream has more or fewer tokens than were sent."""
    delays = []
    for slot, times in enumerate(read):
        written = sent[slot][sent[slot] > 0]
        if len(written) != len(times):
            raise ValueError(f"stream {slot}: {len(written)} tokens sent, {len(times)} read")
        delays.append(np.asarray(times[WARM_UP_TOKENS:]) - written[WARM_UP_TOKENS:])
    return np.concatenate(delays) * 1e3


class Controller:
    """Stands in for the fleet's: a table that does not change."""

    def __init__(self, entries: list[WorkerEntry]) -> None:
        self._entries = entries

    def workers(self, ingress_id: str = "") -> list[WorkerEntry]:
        return self._entries

    def models(self, ingress_id: str, version: int, num_open: dict[str, int]) -> None:
        """As it was."""


@contextmanager
def ingress(haproxy: bool, folder: str, model: str = "demo") -> Iterator[tuple[int, int, Path]]:
    """A fake worker and the real application on a Ray cluster of its own; yields HTTP port, gRPC port, table."""
    from cluster.host.ports import free_ports
    from cluster.ingress.environment import serve_environment

    os.environ.update(serve_environment(folder, haproxy=haproxy))
    import ray

    from cluster.config.schema import BatonConfig, GRPCConfig, HTTPConfig
    from cluster.contracts.served_model import ServedModel
    from cluster.ingress.app import deploy, undeploy

    table = Path(folder, "times")
    command = [sys.executable, "-m", "bench.ingress_worker", "--secret", SECRET, "--step-s", str(1 / RATE)]
    worker = subprocess.Popen(
        [*command, "--table", str(table)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    address = f"127.0.0.1:{int(worker.stdout.readline())}"
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        namespace="bench",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )

    entry = WorkerEntry(worker_id="mixed-0", incarnation="0", role=Role.MIXED, address=address)
    actor: Any = ray.remote(num_cpus=0)(Controller).options(name="controller").remote([entry])
    ray.get(actor.workers.remote())
    http_port, grpc_port = free_ports("127.0.0.1", 2)
    config = BatonConfig(served_name=model, http=HTTPConfig(port=http_port), grpc=GRPCConfig(port=grpc_port))
    try:
        row = ServedModel(entry="", controller="controller", config=config, model_path=str(DEMO))
        deploy(config, models=[row], secret=SECRET, namespace="bench", controller_name="controller")
        yield http_port, grpc_port, table
    finally:
        undeploy()
        ray.shutdown()
        worker.kill()
        worker.wait()


def measure(proxy: str, streams: Sequence[int], seconds: float) -> Rows:
    """One proxy in this process: Serve reads its environment once. Prints each row as it comes."""
    import uvloop

    from bench.ingress_worker import open_table

    rows: Rows = []
    max_tokens = int(seconds * RATE)
    with (
        tempfile.TemporaryDirectory(prefix="baton-", dir="/tmp") as folder,
        ingress(proxy == "haproxy", folder, MODEL) as (http, grpc, path),
    ):
        table = open_table(path, 64)
        for protocol, run, port in (("http", http_times, http), ("grpc", grpc_times, grpc)):
            for num_streams in streams:
                table[:] = 0
                read = uvloop.run(run(port, num_streams, max_tokens))
                delays = delays_ms(table, read)
                p50, p90, p99 = np.percentile(delays, [50, 90, 99])
                row = {"proxy": proxy, "protocol": protocol, "streams": num_streams, "tokens": len(delays)}
                rows.append(row | {"p50_ms": round(p50, 2), "p90_ms": round(p90, 2), "p99_ms": round(p99, 2)})
                print(line(rows[-1]), flush=True)
    return rows


HEAD = f"{'proxy':9}{'protocol':10}{'streams':>8}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}"


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['proxy']:9}{row['protocol']:10}{row['streams']:8d}"
        f"{row['p50_ms']:9.2f}{row['p90_ms']:9.2f}{row['p99_ms']:9.2f}"
    )


def measured_apart(proxy: str, streams: Sequence[int], seconds: float) -> Rows:
    """One proxy in a process of its own, which prints its rows."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.ingress", "--rows-of", proxy, "--json", file.name]
        command += ["--seconds", str(seconds), "--streams", *map(str, streams)]
        subprocess.run(command, check=True)
        rows: Rows = json.load(file)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", choices=["haproxy", "python", "both"], default="both")
    parser.add_argument("--streams", type=int, nargs="+", help="at most 64 each; 1 16 64, or 1 16 by --quick")
    parser.add_argument("--seconds", type=float, help="length of each run, at most 20; 10, or 4 by --quick")
    parser.add_argument("--quick", action="store_true", help="fewer streams, shorter: under 2 minutes")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--rows-of", choices=["haproxy", "python"], help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args()
    streams = options.streams or ([1, 16] if options.quick else [1, 16, 64])
    seconds = options.seconds or (4.0 if options.quick else 10.0)
    if options.rows_of:
        rows = measure(options.rows_of, streams, seconds)
    else:
        proxies = ("haproxy", "python") if options.proxy == "both" else (options.proxy,)
        announce("bench.ingress", about_s=len(proxies) * (START_S + 2 * len(streams) * (seconds + 1)))
        print(HEAD, flush=True)
        rows = [row for proxy in proxies for row in measured_apart(proxy, streams, seconds)]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
