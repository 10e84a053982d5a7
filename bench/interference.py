"""Gaps between tokens of running decodes while long prompts arrive: disaggregated beside co-located, same two cores.

    python -m bench.interference --json out.json --plot docs/interference.png
    python -m bench.interference --quick    # one round, half the prompts

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

from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of
from bench.models import LlamaShape, write_dummy
from cluster.config.schema import RouterConfig
from cluster.profiling.local_cluster import LocalCluster, greedy, local_cluster
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec

SHAPE = LlamaShape(hidden=288, layers=8, heads=9, kv_heads=3, mlp=768, vocab=4096, positions=8192)
PREFILL_CORE, DECODE_CORE = 0, 1
START_S = 8.0  # of two workers, and their end


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    num_decodes: int = 8
    prompt_tokens: int = 2000
    num_prompts: int = 24
    gap_s: float = 0.35  # between prompts
    prompt_outputs: int = 4  # tokens that each arriving prompt asks for
    warm_up_s: float = 1.0


def spec(model: Path, worker_id: str, role: Role, core: int, dtype: str, *, chunked: bool) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model=str(model),
        served_name="bench",
        dtype=dtype,
        device="cpu",
        load_format="dummy",
        engine=EngineSpec(memory_bytes=512 << 20, chunked_prefill=chunked, prefix_cache=False),
        speculation=SpeculationSpec(method="none"),  # a gap per token
        secret="s3cret",
        cores=(core,),
        num_threads=1,
    )


def modes(model: Path, dtype: str) -> dict[str, list[WorkerSpec]]:
    disaggregated = [
        spec(model, "prefill-0", Role.PREFILL, PREFILL_CORE, dtype, chunked=True),
        spec(model, "decode-0", Role.DECODE, DECODE_CORE, dtype, chunked=True),
    ]
    chunked, whole = (
        [
            spec(model, f"mixed-{index}", Role.MIXED, core, dtype, chunked=chunked)
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
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Interleaved; the median of each figure is shown. 3, or 1 by --quick.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Where to draw the first dtype's gaps.")] = None,
    num_decodes: Annotated[int, typer.Option(min=1, help="Answers being written while prompts arrive.")] = 8,
    dtypes: Dtypes = DEFAULT_DTYPES,
    quick: Quick = False,
) -> None:
    """Prints p50/p90/p99 of the gap between tokens for each set-up, and its ratio to undisturbed decodes."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench.interference: needs two cores")
    chosen, num_rounds = dtypes_of(dtypes), rounds or (1 if quick else 3)
    load = Load(num_decodes=num_decodes, num_prompts=12 if quick else 24)
    seconds = START_S + load.warm_up_s + 0.2 * num_decodes + 2 * load.num_prompts * load.gap_s
    announce("bench.interference", about_s=seconds * 4 * num_rounds * len(chosen), dtypes=chosen)
    os.sched_setaffinity(0, {PREFILL_CORE})
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = write_dummy(SHAPE, Path(folder))
        for number, dtype in enumerate(chosen):
            rows, gaps = run_rounds(model, dtype, load, num_rounds)
            found[dtype] = {"medians": medians_of(rows), "rounds": rows}
            show(dtype, load, found[dtype]["medians"])
            if plot_path and not number:
                plot(gaps, plot_path)
    if json_path:
        json_path.write_text(json.dumps(found, indent=2))


def run_rounds(
    model: Path, dtype: str, load: Load, num_rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, list[float]]]:
    """By set-up, each round's figures, and the gaps in s of all of them."""
    rows: dict[str, list[dict[str, float]]] = {}
    gaps: dict[str, list[float]] = {}
    for number in range(num_rounds):
        for name, specs in modes(model, dtype).items():
            found = asyncio.run(measure(specs, load, disturbed=name != "undisturbed"))
            row = summary(found)
            told = ", ".join(f"{key.removesuffix('_ms')} {row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            print(f"{dtype}, round {number + 1} of {num_rounds}, {name}: gaps in ms {told}", flush=True)
            rows.setdefault(name, []).append(row)
            gaps.setdefault(name, []).extend(found)
    return rows, gaps


def medians_of(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Over the rounds, and as multiples of the undisturbed ones."""
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    base = medians["undisturbed"]
    for row in medians.values():
        row["p50_ratio"], row["p99_ratio"] = row["p50_ms"] / base["p50_ms"], row["p99_ms"] / base["p99_ms"]
    return medians


def show(dtype: str, load: Load, medians: dict[str, dict[str, float]]) -> None:
    title = f"gap between tokens, {dtype}, {load.num_decodes} decodes, {load.prompt_tokens}-token prompts arriving"
    table = Table(title=title)
    for column in ("set-up", "p50 ms", "p90 ms", "p99 ms", "max ms", "p50 x", "p99 x", "tokens"):
        table.add_column(column, justify="left" if column == "set-up" else "right")
    for name, row in medians.items():
        keys = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "p50_ratio", "p99_ratio")
        table.add_row(name, *(f"{row[key]:.2f}" for key in keys), f"{row['tokens']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
