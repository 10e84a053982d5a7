"""Gaps between tokens of running decodes while long prompts arrive: disaggregated beside co-located, same two cores.

    python -m bench.interference --json out.json --plot docs/interference.png

Four runs per round: decodes alone; 1 prefill + 1 decode worker, one core each; two mixed workers, one core each,
with chunked prefill and without. The same decodes and the same prompts in all of them. Everything that is not a
worker (this process, its dispatcher) is kept off the decode worker's core.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bench.harness import LocalCluster, greedy, local_cluster
from bench.models import LlamaShape, write_dummy
from cluster.config import RouterConfig
from workers.spec import EngineSpec, Role, WorkerSpec

SHAPE = LlamaShape(hidden=288, layers=8, heads=9, kv_heads=3, mlp=768, vocab=4096, positions=8192)
PREFILL_CORE, DECODE_CORE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    num_decodes: int = 8
    prompt_tokens: int = 2000
    num_prompts: int = 24
    gap_s: float = 0.35  # between prompts
    prompt_outputs: int = 4  # tokens that each arriving prompt asks for
    warm_up_s: float = 1.0


def spec(model: Path, worker_id: str, role: Role, core: int, *, chunked: bool) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model=str(model),
        served_name="bench",
        dtype="bfloat16",
        device="cpu",
        load_format="dummy",
        engine=EngineSpec(memory_bytes=512 << 20, chunked_prefill=chunked, prefix_cache=False),
        secret="s3cret",
        cores=(core,),
        num_threads=1,
    )


def modes(model: Path) -> dict[str, list[WorkerSpec]]:
    disaggregated = [
        spec(model, "prefill-0", Role.PREFILL, PREFILL_CORE, chunked=True),
        spec(model, "decode-0", Role.DECODE, DECODE_CORE, chunked=True),
    ]
    chunked, whole = (
        [
            spec(model, f"mixed-{index}", Role.MIXED, core, chunked=chunked)
            for index, core in enumerate((PREFILL_CORE, DECODE_CORE))
        ]
        for chunked in (True, False)
    )
    return {
        "undisturbed": disaggregated,
        "disaggregated": disaggregated,
        "co-located, chunked": chunked,
        "co-located, whole prompts": whole,
    }


async def decode_gaps(cluster: LocalCluster, load: Load, seed: int, stop: asyncio.Event) -> list[tuple[float, float]]:
    """(arrival, gap) in s of the tokens of one long answer, until `stop`."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, SHAPE.vocab, 100).tolist()
    sampling = greedy(4000)
    gaps, last_s = [], None
    async for outputs in cluster.generate(prompt, sampling, timeout_s=300):
        now_s = time.monotonic()
        if last_s is not None:
            gaps.append((now_s, (now_s - last_s) / max(sum(len(o.token_ids) for o in outputs), 1)))
        last_s = now_s
        if stop.is_set():
            break
    return gaps


async def measure(specs: list[WorkerSpec], load: Load, *, disturbed: bool) -> list[float]:
    """Gaps in s of all decodes while prompts arrive (or for as long without them)."""
    router = RouterConfig(disaggregate_over_tokens=64)
    async with local_cluster(specs, router) as cluster:
        stop = asyncio.Event()
        decodes = [asyncio.create_task(decode_gaps(cluster, load, seed, stop)) for seed in range(load.num_decodes)]
        await asyncio.sleep(load.warm_up_s + 0.2 * load.num_decodes)
        start_s = time.monotonic()
        rng = np.random.default_rng(99)
        prompts = []
        for _ in range(load.num_prompts):
            if disturbed:
                prompt = rng.integers(1, SHAPE.vocab, load.prompt_tokens).tolist()
                sampling = greedy(load.prompt_outputs)
                prompts.append(asyncio.create_task(cluster.answer(prompt, sampling)))
            await asyncio.sleep(load.gap_s)
        end_s = time.monotonic()
        await asyncio.gather(*prompts)
        stop.set()
        gaps = [gap for task in decodes for gap in await task]
        return [gap for at, gap in gaps if start_s <= at <= end_s]


def summary(gaps: list[float]) -> dict[str, float]:
    values = np.array(gaps) * 1000
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": values.max(), "tokens": float(len(values))}


def plot(gaps: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.8))
    for name, values in gaps.items():
        ordered = np.sort(np.array(values) * 1000)
        axes.plot(ordered, 1 - np.arange(len(ordered)) / len(ordered), label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(2, None),
        xlabel="gap between two tokens (ms)",
        ylabel="share of gaps that are longer",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; the median of each figure is shown.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Where to draw the gaps.")] = None,
    num_decodes: Annotated[int, typer.Option(help="Answers being written while prompts arrive.")] = 8,
) -> None:
    """Prints p50/p90/p99 of the gap between tokens for each set-up, and its ratio to undisturbed decodes."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench.interference: needs two cores")
    os.sched_setaffinity(0, {PREFILL_CORE})
    load = Load(num_decodes=num_decodes)
    rows: dict[str, list[dict[str, float]]] = {}
    gaps: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = write_dummy(SHAPE, Path(folder))
        for _ in range(rounds):
            for name, specs in modes(model).items():
                found = asyncio.run(measure(specs, load, disturbed=name != "undisturbed"))
                rows.setdefault(name, []).append(summary(found))
                gaps.setdefault(name, []).extend(found)
    medians: dict[str, dict[str, Any]] = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    base = medians["undisturbed"]
    table = Table(title=f"gap between tokens, {load.num_decodes} decodes, {load.prompt_tokens}-token prompts arriving")
    for column in ("set-up", "p50 ms", "p90 ms", "p99 ms", "max ms", "p50 x", "p99 x", "tokens"):
        table.add_column(column, justify="left" if column == "set-up" else "right")
    for name, row in medians.items():
        row["p50_ratio"], row["p99_ratio"] = row["p50_ms"] / base["p50_ms"], row["p99_ms"] / base["p99_ms"]
        keys = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "p50_ratio", "p99_ratio")
        table.add_row(name, *(f"{row[key]:.2f}" for key in keys), f"{row['tokens']:.0f}")
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps({"medians": medians, "rounds": rows}, indent=2))
    if plot_path:
        plot(gaps, plot_path)


if __name__ == "__main__":
    typer.run(main)
