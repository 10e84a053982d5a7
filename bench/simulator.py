"""What a simulation takes, and what one routing decision costs.

    python -m bench.simulator --trace AzureLLMInferenceTrace_conv.csv      # the whole trace on 8 workers
    python -m bench.simulator --workers 1000 --requests 1000000            # synthetic, mean 1,155 in and 211 out
    python -m bench.simulator --quick                                      # synthetic, 2,000 requests
    python -m bench.simulator --routing --plot docs/routing_cost.png       # one decision against the number of workers

Workers are OPT-13B on one A100-80G each (DistServe's published coefficients, 200 Gbit/s between workers), two prefill
to three decode ones. Counters are checked after every event, everything every `--check-every` events and at the end.
The synthetic outputs have a long tail: of a million the longest, 18,362 tokens, takes 730 s at 40 ms each, more than
`router.request_timeout_s`. Who does not finish is told of by error code.
"""

import argparse
import gc
import json
import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from random import Random

import numpy as np

from bench.machine import announce
from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimPool
from cluster.load.trace_file import read_trace
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.planner.costs.transfer import Path as LinkPath
from cluster.planner.load.lengths import Independent, Lognormal
from cluster.planner.load.workload import from_trace, synthetic
from cluster.router.load import Pools, WorkerLoad
from cluster.router.policy import Policy, RouteRequest
from cluster.router.prefix_index import PrefixIndex
from cluster.simulator.report import is_finished
from cluster.simulator.world import simulate
from workers.spec import Role

# DistServe's fit of OPT-13B, one A100: ../shared/reference and OSDI 2024, in seconds.
LATENCY = CoefficientLatency(
    prefill=PrefillFit(base_s=0.0181, per_token_s=1.019e-4, per_square_s=7.12e-9),
    decode_small=DecodeFit(base_s=0.01993, per_context_s=6.27e-7, per_sequence_s=3.85e-5),
    decode_large=DecodeFit(base_s=0.01993, per_context_s=6.27e-7, per_sequence_s=3.85e-5),
    large_from=95,
)
BLOCK_SIZE = 16
TOKEN_BYTES = 2 * 40 * 5120 * 2  # K and V of 40 layers in 16 bits
NUM_BLOCKS = 50 * 10**9 // (TOKEN_BYTES * BLOCK_SIZE)  # what 80 GB leave beside 26 GB of weights
COUNTS = tuple(2**power for power in range(1, 13))  # of workers, in the routing decision
REQUEST_S = 1.5e-3  # what a request takes to simulate, about
REQUESTS_PER_S = 1.5  # of each worker of the synthetic load: prefill workers are busy for about 60 %


def cluster(num_workers: int, *, prefix_cache: bool) -> SimCluster:
    num_prefill = max(num_workers * 2 // 5, 1)
    counts = {Role.PREFILL: num_prefill, Role.DECODE: max(num_workers - num_prefill, 1)}
    return SimCluster(
        pools=[
            SimPool(role=role, num_workers=count, latency=LATENCY, num_blocks=NUM_BLOCKS)
            for role, count in counts.items()
        ],
        engine=EngineConfig(
            block_size=BLOCK_SIZE, max_batched_tokens=2048, max_sequences=256, prefix_cache=prefix_cache
        ),
        router=RouterConfig(max_running=1_000_000, max_queue=1_000_000),
        num_layers=40,
        token_bytes=TOKEN_BYTES,
        transfer=LinkPath(bandwidth=25e9, latency_s=1e-4),
        ingress_s=0.001,
    )


def synthetic_arrivals(num_requests: int, rate: float, seed: int) -> list[Arrival]:
    """Means and medians of Azure's conversations."""
    lengths = Independent(prompt=Lognormal(mean=1155.0, median=1020.0), output=Lognormal(mean=211.0, median=129.0))
    return synthetic(lengths, rate=rate, num_requests=num_requests, rng=np.random.default_rng(seed))


def run(name: str, spec: SimCluster, arrivals: Sequence[Arrival], *, check_every: int) -> dict[str, object]:
    """Simulates, prints and returns what it took."""
    gc.collect()
    gc.disable()  # a simulation leaves no cycles; to walk what it keeps takes a fifth of the time
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = simulate(spec, arrivals, check_every=check_every)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    gc.enable()
    finished = [record for record in result.records if is_finished(record)]
    tpot_s = float(np.median([record.tpot_s for record in finished if record.num_output_tokens > 1]))
    facts: dict[str, object] = {
        "name": name,
        "num_workers": sum(pool.num_workers for pool in spec.pools),
        "num_requests": len(arrivals),
        "num_finished": len(finished),
        "unfinished": unfinished(result.records, tpot_s),
        "request_timeout_s": spec.router.request_timeout_s,
        "num_output_tokens": sum(record.num_output_tokens for record in finished),
        "simulated_s": round(result.end_s, 1),
        "num_events": result.num_events,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "requests_per_s": round(len(arrivals) / wall_s, 1),
        "max_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "check_every": check_every,
        "ttft_p50_ms": round(1e3 * float(np.median([record.ttft_s for record in finished])), 1),
        "tpot_p50_ms": round(1e3 * tpot_s, 2),
        "num_preemptions": result.num_preemptions,
        "trace_hash": result.trace_hash,
    }
    for key, value in facts.items():
        print(f"{key:18} {value}")
    return facts


def unfinished(records: Sequence[RequestRecord], tpot_s: float) -> dict[str, str]:
    """By error code, how many did not finish and what the longest would have taken at the pace of the others."""
    by_code: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in records:
        if not is_finished(record):
            by_code[record.error or "unfinished"].append(record)
    return {code: f"{len(failed)}; {_longest(failed, tpot_s)}" for code, failed in by_code.items()}


def _longest(records: Sequence[RequestRecord], tpot_s: float) -> str:
    one = max(records, key=attrgetter("num_output_tokens"))
    return (
        f"the longest, request {one.index}, {one.num_prompt_tokens} tokens in and {one.num_output_tokens} out, "
        f"{one.num_attempts} attempt(s), takes {one.num_output_tokens * tpot_s:.0f} s at the median TPOT"
    )


def decision_us(num_workers: int, *, num_decisions: int = 2000, num_blocks: int = 72) -> float:
    """Microseconds of one routing decision, half of the prompts with a prefix that some workers hold."""
    rng = Random(num_workers)
    num_prefill = max(num_workers * 2 // 5, 1)
    loads = [_load(index, Role.PREFILL if index < num_prefill else Role.DECODE, rng) for index in range(num_workers)]
    pools, prefix = Pools.of(loads), PrefixIndex()
    shared = [list(range(group * 1000, group * 1000 + num_blocks)) for group in range(64)]
    for load in loads:
        prefix.update(load.worker_id, added=shared[rng.randrange(64)], removed=())
    requests = [
        RouteRequest(
            num_tokens=num_blocks * BLOCK_SIZE,
            max_total_tokens=num_blocks * BLOCK_SIZE + 211,
            block_hashes=shared[rng.randrange(64)] if rng.random() < 0.5 else [-number - 1 for number in range(72)],
        )
        for _ in range(num_decisions)
    ]
    policy = Policy(disaggregate_over_tokens=64)
    began_s = time.process_time()
    for request in requests:
        policy.route(request, pools, prefix, 1.0, rng)
    return (time.process_time() - began_s) / num_decisions * 1e6


def _load(index: int, role: Role, rng: Random) -> WorkerLoad:
    return WorkerLoad(
        worker_id=f"{role}-{index}",
        role=role,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_model_len=1 << 20,
        max_sequences=256,
        num_free_blocks=rng.randrange(NUM_BLOCKS),
        num_running=rng.randrange(64),
        num_waiting_tokens=rng.randrange(4096),
        prefill_tokens_per_s=8000.0,
    )


def routing(plot: Path | None, *, quick: bool) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for num_workers in COUNTS[:: 3 if quick else 1]:
        best_us = min(decision_us(num_workers) for _ in range(3))
        rows.append({"num_workers": num_workers, "decision_us": round(best_us, 1)})
        print(f"{num_workers:6d} workers  {best_us:8.1f} us per decision", flush=True)
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(6, 3.5))
        axes.plot([row["num_workers"] for row in rows], [row["decision_us"] for row in rows], marker="o")
        axes.set(xscale="log", xlabel="workers", ylabel="us per decision", title="One routing decision", ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(plot, dpi=120)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="Azure's .csv or Mooncake's .jsonl, as it stands")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, help="of the synthetic load; 10,000, or 2,000 by --quick")
    parser.add_argument("--quick", action="store_true", help="fewer requests, or numbers of workers: under 2 minutes")
    parser.add_argument("--no-prefix-cache", action="store_true")
    parser.add_argument("--check-every", type=int, default=100_000, help="events between full integrity checks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routing", action="store_true", help="measure the routing decision instead")
    parser.add_argument("--plot", type=Path, help="PNG of the routing decision's cost")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.workers < 2:
        parser.error(f"--workers {options.workers}: give 2 or more, one of each pool")
    if options.plot and not options.routing:
        parser.error("--plot is of --routing; give both")
    if options.quick and options.trace:
        parser.error("--quick is of the synthetic load; a trace is played as it stands")
    facts: object
    if options.routing:
        announce("bench.simulator, one routing decision", about_s=10 if options.quick else 40)
        facts = routing(options.plot, quick=options.quick)
    else:
        spec = cluster(options.workers, prefix_cache=not options.no_prefix_cache)
        if options.trace is not None:
            rows = read_trace(options.trace)
            arrivals = from_trace(rows, block_size=BLOCK_SIZE, rng=np.random.default_rng(options.seed))
            del rows
            name = options.trace.name
        else:
            num_requests = options.requests or (2_000 if options.quick else 10_000)
            arrivals = synthetic_arrivals(num_requests, REQUESTS_PER_S * options.workers, options.seed)
            name = "synthetic"
        announce(f"bench.simulator, {name}, {len(arrivals):,} requests", about_s=len(arrivals) * REQUEST_S)
        facts = run(name, spec, arrivals, check_every=options.check_every)
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
