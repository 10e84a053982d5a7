"""What a layer-parallel draft gang brings: time per drafted token, and what it costs in acceptance.

    python -m bench.layer_parallel             # both, see --help
    python -m bench.layer_parallel --quick     # under 2 minutes
    python -m bench.layer_parallel --shapes "512 x 16,1024 x 16" --batches 4 --no-acceptance

Times are of dummy models on two ranks, a core each: with 1, 2 and 4 layers that attend at once, beside the model on
one core and tensor-parallel on the same two. All sides are there at once and take turns; medians. Acceptance is of
`demo-draft`: see `bench.layer_acceptance`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from bench.layer_acceptance import HELD_OUT, report_acceptance
from bench.machine import Dtypes, Quick, announce, dtypes_of
from bench.models import LlamaShape, write_dummy
from bench.tensor_parallel import ranks
from cluster.profiling.local_cluster import WorkerProcess
from cluster.profiling.specs import available_cores
from workers.spec import EngineSpec, GangSpec, Role, WorkerSpec

SHAPES = {
    "512 x 8": LlamaShape(hidden=512, layers=8, heads=8, kv_heads=4, mlp=1408, vocab=4096, positions=2048),
    "512 x 16": LlamaShape(hidden=512, layers=16, heads=8, kv_heads=4, mlp=1408, vocab=4096, positions=2048),
    "1024 x 8": LlamaShape(hidden=1024, layers=8, heads=16, kv_heads=8, mlp=2816, vocab=4096, positions=2048),
    "1024 x 16": LlamaShape(hidden=1024, layers=16, heads=16, kv_heads=8, mlp=2816, vocab=4096, positions=2048),
}
QUICK = ("512 x 8", "1024 x 8")
ALONE, WHOLE_MLPS = "one core", "N = 2 with whole MLPs"
SIDES = {  # name -> gang and kind of chunks
    ALONE: (GangSpec(), "decode"),
    "tensor_parallel 2": (GangSpec(tensor_parallel=2), "decode"),
    "N = 1": (GangSpec(layer_parallel=2, layer_group=1), "draft"),
    "N = 2": (GangSpec(layer_parallel=2, layer_group=2), "draft"),
    "N = 4": (GangSpec(layer_parallel=2, layer_group=4), "draft"),
    WHOLE_MLPS: (GangSpec(layer_parallel=2, layer_group=2), "draft"),  # their width is one more: two do not divide it
}
CONTEXT, TOKENS = 256, 24
START_S, ROUND_S = 20.0, 3.0

console = Console(highlight=False, soft_wrap=True)


def spec_of(folder: Path, dtype: str, gang: GangSpec) -> WorkerSpec:
    return WorkerSpec(
        worker_id="bench-draft",
        role=Role.DRAFT,
        model=str(folder),
        served_name="bench",
        dtype=dtype,
        device="cpu",
        load_format="dummy",
        secret="bench",
        gang=gang,
        engine=EngineSpec(memory_bytes=256 << 20, max_model_len=CONTEXT + TOKENS + 16),
    )


def folder_of(name: str, side: str) -> Path:
    shape = SHAPES[name]
    if side == WHOLE_MLPS:
        shape = replace(shape, mlp=shape.mlp + 1)
    made = f"baton-bench-draft-{name.replace(' ', '')}-{shape.mlp}"
    return write_dummy(shape, Path(tempfile.gettempdir()) / made)


def measured(name: str, dtype: str, batch: int, rounds: int, sides: Sequence[str]) -> Mapping[str, float]:
    """Seconds per drafted token, by side: medians over rounds in which all take turns."""
    cores = available_cores()[:2]
    found: dict[str, list[float]] = {side: [] for side in sides}
    with ExitStack() as stack:
        processes: dict[str, WorkerProcess] = {}
        for side in sides:
            log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
            spec = spec_of(folder_of(name, side), dtype, SIDES[side][0])
            processes[side] = stack.enter_context(ranks(spec, "bench.layer_parallel_rank", cores, Path(log.name)))
        for number in range(rounds + 1):
            for side, process in processes.items():
                job = {"kind": SIDES[side][1], "batch": batch, "context": CONTEXT, "tokens": TOKENS}
                seconds = process.ask(job)["seconds"]
                if number:  # the first is to warm up
                    found[side].append(seconds)
    return {side: median(row) for side, row in found.items()}


def compare(name: str, dtype: str, batch: int, rounds: int) -> None:
    found = measured(name, dtype, batch, rounds, list(SIDES))
    alone = found[ALONE]
    shown = " · ".join(f"{side} {s * 1e3:.2f} ms ({alone / s:.2f} x)" for side, s in found.items())
    console.print(f"  {name}, {dtype}, batch {batch}: {shown}")


def shapes_of(text: str, *, quick: bool) -> list[str]:
    """Names of SHAPES. Raises: typer.BadParameter: an unknown one."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(SHAPES)}", param_hint="--shapes")
    return names or list(QUICK if quick else SHAPES)


def main(
    dtypes: Dtypes = "bfloat16",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Medians over so many.")] = 15,
    batches: Annotated[
        str, typer.Option("--batches", help="Sequences that are drafted for at once; 1,4, or 1 by --quick.")
    ] = "",
    shapes: Annotated[
        str, typer.Option("--shapes", help=f"Hidden size x layers, of {', '.join(SHAPES)}; default: all.")
    ] = "",
    acceptance: Annotated[bool, typer.Option("--acceptance/--no-acceptance", help="Of demo-draft, too.")] = True,
    held_out: Annotated[Path, typer.Option("--held-out", help="Token ids of book text nobody trained on.")] = HELD_OUT,
    quick: Quick = False,
) -> None:
    """Time per drafted token on two cores, and acceptance, by how many layers attend at once."""
    kinds = dtypes_of(dtypes)
    names = shapes_of(shapes, quick=quick)
    sizes = [int(size) for size in (batches or ("1" if quick else "1,4")).split(",")]
    rounds = min(rounds, 5) if quick else rounds
    each_s = START_S + ROUND_S * (rounds + 1)
    announce("bench.layer_parallel", about_s=len(names) * len(kinds) * len(sizes) * each_s + 20, dtypes=kinds)
    if len(available_cores()) > 1:
        console.print("\n[bold]time per drafted token[/], two ranks of a core each; (how much faster than one core)")
        for name in names:
            for dtype in kinds:
                for size in sizes:
                    compare(name, dtype, size, rounds)
    else:
        console.print("times are not measured: here is one core")
    if acceptance:
        report_acceptance(console, held_out, num_texts=8 if quick else 32)


if __name__ == "__main__":
    typer.run(main)
