"""What many workers cost one ingress: its CPU and memory, and the delay that each token has on its way through it.

    python -m bench.many_workers                   # 16, 64, 256 and 1,024 workers; about 3 minutes
    python -m bench.many_workers --quick           # 16, 256 and 1,024, shorter; about 1 minute
    python -m bench.many_workers --workers 1024 --json out.json

Workers are production's services in one process (`bench.many_workers_side`) around engines that compute nothing.
The ingress is production's `Dispatcher` (streams, table, prefix index, routing, lifecycles) in a process of its own,
without HTTP: that costs the same whatever the number of workers. Each point has new processes, and measures the ingress

  idle   while it has no requests; one worker in 16 is busy with those of other ingresses;
  load   while 64 streams write 20 tokens/s each besides (prompts of 512 tokens, answers of 128; the next request comes
         when one ends, so 10 requests/s).

CPU is the process's time, all threads, in percent of one core. A token's delay is from the worker's step to the reader
of the answer. Memory is what the process grew by, `hashes` the blocks that its prefix index knows of.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import announce

STREAMS = 64
PROMPT_TOKENS = 512
ANSWER_TOKENS = 128
STEP_S = 0.05
BUSY_SHARE = 16  # one worker in so many serves others too
CONNECT_S = 60.0
Row = dict[str, Any]


def rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def cpu_percent(seconds: float) -> float:
    """Of this process, all threads, in percent of one core."""
    began_s, used_s = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return 100.0 * (time.process_time() - used_s) / (time.monotonic() - began_s)


async def measure(port: int, num_workers: int, seconds: float) -> Row:
    """One point, in this process."""
    from bench.many_workers_side import INCARNATION
    from cluster.config.schema import HealthConfig, RouterConfig
    from cluster.router.dispatcher import Dispatcher
    from cluster.router.workers import WorkerEntry
    from workers.spec import Role

    entries = [
        WorkerEntry(worker_id=f"mixed-{i}", incarnation=INCARNATION, role=Role.MIXED, address=f"127.0.0.1:{port}")
        for i in range(num_workers)
    ]

    async def fetch() -> list[WorkerEntry]:
        return entries

    before_mb = rss_mb()
    dispatcher = Dispatcher(
        ingress_id=str(os.getpid()), secret="", config=RouterConfig(), health=HealthConfig(), fetch_workers=fetch
    )
    began_s = time.monotonic()
    await dispatcher.start()
    while not all(view.up for view in dispatcher.states()):
        if time.monotonic() - began_s > CONNECT_S:
            raise TimeoutError(f"{sum(view.up for view in dispatcher.states())} of {num_workers} workers are connected")
        await asyncio.sleep(0.05)
    row: Row = {"workers": num_workers, "connect_s": round(time.monotonic() - began_s, 2)}
    await asyncio.sleep(2.0)
    row["idle_cpu"] = round(await cpu_percent(seconds), 1)
    row |= await under_load(dispatcher, seconds)
    row |= {"memory_mb": round(rss_mb() - before_mb), "lost": dispatcher.counters.num_lost_workers}
    row["num_hashes"] = dispatcher._links.table.prefix.num_blocks
    await dispatcher.close()
    return row


async def under_load(dispatcher: Any, seconds: float) -> Row:
    from baton.v1.inference_pb2 import SamplingParams
    from cluster.router.dispatcher import DispatchRequest

    delays: list[float] = []
    rng = np.random.default_rng(1)
    num_requests = 0
    is_measuring = False

    async def stream(slot: int) -> None:
        nonlocal num_requests
        await asyncio.sleep(slot / STREAMS)
        while True:
            num_requests += 1
            request = DispatchRequest(
                request_id=f"{os.getpid()}-{num_requests}",
                prompt_token_ids=rng.integers(0, 30_000, PROMPT_TOKENS).tolist(),
                sampling=SamplingParams(n=1, max_tokens=ANSWER_TOKENS, seed=1),
                deadline_s=time.monotonic() + 600.0,
            )
            async for outputs in dispatcher.generate(request):
                now = int(time.monotonic() * 1e6) % 2**32
                if is_measuring:
                    delays.extend((now - token) % 2**32 / 1e3 for output in outputs for token in output.token_ids)

    tasks = [asyncio.create_task(stream(slot)) for slot in range(STREAMS)]
    await asyncio.sleep(2.0)
    is_measuring = True
    load_cpu = await cpu_percent(seconds)
    is_measuring = False
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    p50, p99 = np.percentile(delays, [50, 99])
    return {
        "load_cpu": round(load_cpu, 1),
        "tokens_per_s": round(len(delays) / seconds),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
    }


def point(num_workers: int, seconds: float, cached: int) -> Row:
    """One point, in processes of its own."""
    command = [sys.executable, "-m", "bench.many_workers_side", "--num-workers", str(num_workers)]
    command += ["--num-busy", str(num_workers // BUSY_SHARE), "--cached", str(cached), "--step-s", str(STEP_S)]
    side = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert side.stdout is not None
        port = int(side.stdout.readline())
        ingress = [sys.executable, "-m", "bench.many_workers", "--ingress", str(port), "--seconds", str(seconds)]
        done = subprocess.run([*ingress, "--workers", str(num_workers)], check=True, stdout=subprocess.PIPE, text=True)
        row: Row = json.loads(done.stdout)
        return row
    finally:
        side.kill()
        side.wait()


HEAD = (
    f"{'workers':>8}{'connect s':>11}{'idle CPU %':>12}{'load CPU %':>12}{'tokens/s':>10}{'p50 ms':>8}{'p99 ms':>8}"
    f"{'memory MB':>11}{'hashes':>10}{'lost':>6}"
)


def line(row: Row) -> str:
    return (
        f"{row['workers']:8d}{row['connect_s']:11.1f}{row['idle_cpu']:12.1f}{row['load_cpu']:12.1f}"
        f"{row['tokens_per_s']:10d}{row['p50_ms']:8.2f}{row['p99_ms']:8.2f}{row['memory_mb']:11d}{row['num_hashes']:10d}"
        f"{row['lost']:6d}"
    )


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", help="how many, in each point")
    parser.add_argument("--seconds", type=float, help="of each measurement, two in a point")
    parser.add_argument("--cached", type=int, default=1000, help="blocks in each worker's prefix cache")
    parser.add_argument("--quick", action="store_true", help="three points, 5 s each")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--ingress", type=int, help=argparse.SUPPRESS)  # port: measure one point in this process
    options = parser.parse_args()
    seconds = options.seconds or (5.0 if options.quick else 15.0)
    if options.ingress:
        sys.stdout.write(json.dumps(uvloop.run(measure(options.ingress, options.workers[0], seconds))) + "\n")
        return
    counts = options.workers or ([16, 256, 1024] if options.quick else [16, 64, 256, 1024])
    announce("bench.many_workers", about_s=len(counts) * (2 * seconds + 8))
    print(HEAD, flush=True)
    rows = []
    for num_workers in counts:
        rows.append(point(num_workers, seconds, options.cached))
        print(line(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
