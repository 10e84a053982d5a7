"""Prompts read by one rank and by two in a real engine (LASP-2, LASP-2H), one core per rank.

    python -m bench.sequence_engine            # a 156 M-parameter Llama, a hybrid of 115 M, smollm2 where it is fetched
    python -m bench.sequence_engine --quick    # under 2 minutes
    python -m bench.sequence_engine --only hybrid-115m --chunk 4096

`prefill N`: ms to the first token of a prompt of N tokens, in chunks of --chunk, by one rank, by two that divide the
prompt, and by two that divide the model (tensor_parallel). From which length on dividing the prompt is faster is what
engine.sequence_parallel_over_tokens should be.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.engine_points import Point, parse_points
from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of
from bench.models import HYBRID_115M, write_hybrid
from bench.tensor_parallel import compare_gangs, models, spec_of
from cluster.models.model_file import read_model_spec
from cluster.profiling.specs import available_cores
from workers.spec import GangSpec

POINTS = "prefill 32, prefill 64, prefill 128, prefill 256, prefill 512, prefill 2048, prefill 4096, prefill 7680"
QUICK_POINTS = "prefill 128, prefill 512, prefill 2048"
LEAST = 2  # tokens: everything is cut, so that short prompts tell from where on it pays
START_S, POINT_S = 14.0, 5.0

console = Console(highlight=False, soft_wrap=True)
SIDES = {
    "one rank": GangSpec(),
    "sequence_parallel 2": GangSpec(sequence_parallel=2),
    "tensor_parallel 2": GangSpec(tensor_parallel=2),
}


def compare(folder: Path, dtype: str, points: Sequence[Point], chunk: int, rounds: int, load_format: str) -> None:
    plain = spec_of(folder, dtype, 1, points, load_format)
    engine = replace(plain.engine, max_batched_tokens=chunk, sequence_parallel_over_tokens=LEAST)
    specs = {name: replace(plain, gang=gang, engine=engine) for name, gang in SIDES.items()}
    compare_gangs(specs, points, rounds, available_cores())


def main(
    model: Annotated[str, typer.Option("--model", help="Beside the 156 M-parameter Llama.")] = "smollm2",
    dtypes: Dtypes = DEFAULT_DTYPES,
    only: Annotated[str, typer.Option("--only", help="One model alone, by its name.")] = "",
    chosen_points: Annotated[str, typer.Option("--points", help='As "prefill 2048, prefill 4096".')] = "",
    chunk: Annotated[int, typer.Option("--chunk", min=16, help="Tokens of a prompt in one step.")] = 2048,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Medians over so many.")] = 3,
    quick: Quick = False,
) -> None:
    """What a second rank brings a prompt."""
    points = parse_points(chosen_points or (QUICK_POINTS if quick else POINTS))
    rounds = 1 if quick else rounds
    kinds = dtypes_of(dtypes)[:1] if quick else dtypes_of(dtypes)
    if len(available_cores()) < 2:
        console.print("two ranks need two cores")
        return
    hybrid = write_hybrid(HYBRID_115M, Path(tempfile.gettempdir()) / "baton-bench-hybrid-115m")
    every = [*models(model), ("hybrid-115m", hybrid, "dummy")]
    chosen = [one for one in every if only in ("", one[0])]
    if not chosen:
        raise typer.BadParameter(f"--only: {only!r} is none of {', '.join(name for name, *_ in every)}")
    about_s = len(chosen) * len(kinds) * len(SIDES) * (START_S + len(points) * POINT_S * (1 + rounds) / 8)
    announce("bench.sequence_engine", about_s=about_s, dtypes=kinds)
    for name, folder, load_format in chosen:
        for dtype in kinds:
            console.print(f"\n[bold]{name}, {dtype}[/], one core per rank, chunks of {chunk:,} tokens")
            limit = read_model_spec(str(folder)).max_model_len
            fitting = [point for point in points if point.longest + 16 <= limit]
            compare(folder, dtype, fitting, chunk, rounds, load_format)


if __name__ == "__main__":
    typer.run(main)
