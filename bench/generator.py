"""What the load generator itself costs:  python -m bench.generator [--quick] [STREAMS ...]

For each backend, a fake server in a process of its own streams 50 tokens/s to that many clients at once. CPU per event
bounds what one generator can offer; ITL should be the server's 20 ms, whatever the number of streams.
"""

import argparse
import asyncio
import subprocess
import sys
import time

import uvloop

from bench.machine import announce
from cluster.load.options import LoadOptions
from cluster.load.record import Record
from cluster.load.session import Progress, measure

TOKENS = 100
SERVERS = {"openai": "tests.http_server", "openai-chat": "tests.http_server", "grpc": "tests.grpc_server"}


def main(streams: list[int]) -> None:
    announce("bench.generator", about_s=len(SERVERS) * len(streams) * (TOKENS / 50 + 3))
    print("backend       streams  events/s  CPU us/event  ITL p50 ms  p99 ms  send lag p99 ms", flush=True)
    for backend, module in SERVERS.items():
        with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            for count in streams:
                print(_line(backend, address, count), flush=True)
            server.kill()


def _line(backend: str, address: str, count: int) -> str:
    options = LoadOptions(
        backend=backend,
        address=address,
        concurrency=count,
        num_prompts=count,
        output_len=TOKENS,
        input_len=64,
        warmup=1,
    )
    begun_s = 0.0

    def start(total: int) -> None:
        nonlocal begun_s
        begun_s = time.process_time()

    def ignore(_: str | Record) -> None:
        """The run is quiet."""

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(options, Progress(note=ignore, start=start, advance=ignore))).result
    cpu_us = (time.process_time() - begun_s) * 1e6 / (count * TOKENS)
    rate = result["output_throughput"]
    itl, lag_ms = (result["p50_itl_ms"], result["p99_itl_ms"]), result["p99_send_lag_ms"]
    return f"{backend:12}  {count:7}  {rate:8.0f}  {cpu_us:12.1f}  {itl[0]:10.2f}  {itl[1]:6.2f}  {lag_ms:15.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", type=int, nargs="*", help="at once; 1 16 64, or 1 16 by --quick")
    parser.add_argument("--quick", action="store_true", help="fewer streams")
    options = parser.parse_args()
    main(options.streams or ([1, 16] if options.quick else [1, 16, 64]))
