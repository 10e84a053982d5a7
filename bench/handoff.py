"""The KV hand-over: links by themselves, and between two real workers.

    python -m bench.handoff [--part link|engine|all] [--transports shm,gloo,grpc] [--json out.json]
    python -m bench.handoff --quick    # shared memory alone, two lengths
    python -m bench.handoff --part engine --sequence 2    # prompts of a gang, whose ranks hand over in turns

Link: a bulk transfer beside as many bytes over the bare library, and what pushing costs a thread that computes.
Engine: what the hand-over adds between first and second token, in decode steps, and what pushing costs the prefill,
per prompt length, transport, and with layer-wise push and without (bulk). A Llama of 150 M parameters with
dummy weights, in each of --dtypes; one core for each worker, this process on the prefill worker's. With --sequence the
prefill worker is a gang, whose second rank has the decode worker's core, and CPU is that of all its ranks.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import handoff_engine, handoff_link
from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of
from bench.models import LLAMA_150M, write_dummy

PROMPT_TOKEN_S = 2e-3  # what a token of a prompt takes, about
START_S = 12.0  # of two workers, and their end


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    transports: str
    pushes: str
    lengths: str
    rounds: int
    runs: int


LONG = Defaults(transports="shm,gloo,grpc", pushes="layer,bulk", lengths="64,256,1024,2048,4096", rounds=3, runs=15)
SHORT = Defaults(transports="shm", pushes="layer", lengths="256,1024", rounds=2, runs=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What is measured."""

    transports: Sequence[str]
    pushes: Sequence[str]
    lengths: Sequence[int]
    rounds: int
    runs: int
    sequence: int
    dtypes: Sequence[str]

    def about_s(self, part: "Part") -> float:
        link_s = len(self.transports) * (4 + 0.2 * self.runs + 3.5 * max(3, self.runs // 3))
        pairs_s = (self.rounds + 1) * (sum(self.lengths) * PROMPT_TOKEN_S * 2 + 0.2 * len(self.lengths))
        engine_s = len(self.transports) * len(self.pushes) * len(self.dtypes) * (START_S + pairs_s)
        return (link_s if part is not Part.ENGINE else 0) + (engine_s if part is not Part.LINK else 0)


class Part(StrEnum):
    LINK = "link"
    ENGINE = "engine"
    ALL = "all"


def main(
    part: Annotated[Part, typer.Option(help="What to measure.")] = Part.ALL,
    transports: Annotated[
        str | None, typer.Option(help="Comma-separated: shm, gloo, grpc. All, or shm by --quick.")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="Engine: prompt lengths in tokens. 64 to 4096, or 256,1024 by --quick.")
    ] = None,
    pushes: Annotated[str | None, typer.Option(help="Engine: layer, bulk. Both, or layer by --quick.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Engine: pairs per row. 3, or 2 by --quick.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Link: interleaved runs. 15, or 5 by --quick.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Link: prompt length in tokens.")] = 2048,
    sequence: Annotated[
        int, typer.Option(min=1, help="Engine: ranks of the prefill worker, which divide prompts.")
    ] = 1,
    dtypes: Dtypes = DEFAULT_DTYPES,
    quick: Quick = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Prints a line per point as it comes; medians of interleaved runs."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench.handoff: needs two cores")
    short = SHORT if quick else LONG
    chosen = Chosen(
        transports=(transports or short.transports).split(","),
        pushes=(pushes or short.pushes).split(","),
        lengths=[int(length) for length in (lengths or short.lengths).split(",")],
        rounds=rounds or short.rounds,
        runs=runs or short.runs,
        sequence=sequence,
        dtypes=dtypes_of(dtypes),
    )
    announce("bench.handoff", about_s=chosen.about_s(part), dtypes=chosen.dtypes)
    os.sched_setaffinity(0, {handoff_engine.PREFILL_CORE})
    found: dict[str, Any] = {}
    if part is not Part.ENGINE:
        found["link"] = _link_part(chosen, tokens)
    if part is not Part.LINK:
        found["engine"] = handoff_engine.as_json(asyncio.run(_engine_part(chosen)))
    if json_path:
        json_path.write_text(json.dumps(found, indent=2))


def _link_part(chosen: Chosen, tokens: int) -> list[dict[str, Any]]:
    print(f"bulk transfer of {tokens} tokens beside the bare link; a computing thread with and without layer-wise push")
    print("link       MB  raw GB/s  bulk GB/s  ratio  time x  CPU x  ack ms", flush=True)
    rows = []
    for name in chosen.transports:
        row = handoff_link.measure(name, tokens=tokens, runs=chosen.runs)
        rows.append(row)
        print(
            f"{name:6} {row['kv_mb']:6.0f} {row['raw_gb_per_s']:9.2f} {row['bulk_gb_per_s']:10.2f} "
            f"{row['bulk_over_raw']:6.2f} {row['prefill_with_push_over_without']:7.3f} "
            f"{row['cpu_with_push_over_without']:6.3f} {row['ack_after_prefill_ms']:7.1f}",
            flush=True,
        )
    return rows


async def _engine_part(chosen: Chosen) -> list[handoff_engine.Row]:
    print("prefill without hand-over, and with it (x); gap from first to second token, in steps of decode")
    print("dtype     link   push   tokens  prefill ms  time x  CPU x  gap ms  step ms  + steps", flush=True)
    rows: list[handoff_engine.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_dummy(LLAMA_150M, Path(folder))
        for dtype in chosen.dtypes:
            for transport in chosen.transports:
                for push in chosen.pushes:
                    specs = handoff_engine.specs_of(model, dtype, transport, push, chosen.sequence)
                    async for row in handoff_engine.measure(specs, chosen.lengths, chosen.rounds):
                        rows.append(row)
                        print(_line(row), flush=True)
    return rows


def _line(row: handoff_engine.Row) -> str:
    return (
        f"{row.dtype:9} {row.transport:6} {row.push:6} {row.num_tokens:6} {row.prefill_ms:11.0f} "
        f"{row.prefill_ratio:7.3f} {row.cpu_ratio:6.3f} {row.gap_ms:7.1f} {row.step_ms:8.1f} {row.added_steps:8.2f}"
    )


if __name__ == "__main__":
    typer.run(main)
