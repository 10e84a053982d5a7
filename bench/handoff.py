"""The KV hand-over: links by themselves, and between two real workers.

    python -m bench.handoff [--part link|engine|all] [--transports shm,gloo,grpc] [--json out.json]

Link: a bulk transfer beside as many bytes over the bare library, and what pushing costs a thread that computes.
Engine: what the hand-over adds between first and second token, in decode steps, and what pushing costs the prefill,
per prompt length, transport, and with layer-wise push and without (bulk). A Llama of 150 M parameters in bf16 with
dummy weights; one core for each worker, this process on the prefill worker's.
"""

import asyncio
import json
import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench import handoff_engine, handoff_link
from bench.models import LLAMA_150M, write_dummy


class Part(StrEnum):
    LINK = "link"
    ENGINE = "engine"
    ALL = "all"


def main(
    part: Annotated[Part, typer.Option(help="What to measure.")] = Part.ALL,
    transports: Annotated[str, typer.Option(help="Comma-separated: shm, gloo, grpc.")] = "shm,gloo,grpc",
    lengths: Annotated[str, typer.Option(help="Engine: prompt lengths in tokens.")] = "64,256,1024,2048,4096",
    pushes: Annotated[str, typer.Option(help="Engine: layer, bulk.")] = "layer,bulk",
    rounds: Annotated[int, typer.Option(help="Engine: interleaved pairs per row.")] = 3,
    runs: Annotated[int, typer.Option(help="Link: interleaved runs.")] = 15,
    tokens: Annotated[int, typer.Option(help="Link: prompt length in tokens.")] = 2048,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Prints one table per part; medians of interleaved runs."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench.handoff: needs two cores")
    os.sched_setaffinity(0, {handoff_engine.PREFILL_CORE})
    found: dict[str, Any] = {}
    names = transports.split(",")
    if part is not Part.ENGINE:
        found["link"] = _link_part(names, tokens, runs)
    if part is not Part.LINK:
        found["engine"] = _engine_part(names, pushes.split(","), [int(length) for length in lengths.split(",")], rounds)
    if json_path:
        json_path.write_text(json.dumps(found, indent=2))


def _link_part(transports: list[str], tokens: int, runs: int) -> list[dict[str, Any]]:
    rows = [handoff_link.measure(name, tokens=tokens, runs=runs) for name in transports]
    _table(
        f"bulk transfer of {tokens} tokens beside the bare link; a computing thread with and without layer-wise push",
        ("link", "MB", "raw GB/s", "bulk GB/s", "ratio", "time x", "CPU x", "ack ms"),
        [
            (
                row["transport"],
                f"{row['kv_mb']:.0f}",
                *(f"{row[key]:.2f}" for key in ("raw_gb_per_s", "bulk_gb_per_s", "bulk_over_raw")),
                *(f"{row[key]:.3f}" for key in ("prefill_with_push_over_without", "cpu_with_push_over_without")),
                f"{row['ack_after_prefill_ms']:.1f}",
            )
            for row in rows
        ],
    )
    return rows


def _engine_part(transports: list[str], pushes: list[str], lengths: list[int], rounds: int) -> list[dict[str, object]]:
    rows: list[handoff_engine.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_dummy(LLAMA_150M, Path(folder))
        for transport in transports:
            for push in pushes:
                rows += asyncio.run(handoff_engine.measure(model, transport, push, lengths, rounds))
    _table(
        "prefill without hand-over, and with it (x); gap from first to second token, in steps of decode",
        ("link", "push", "tokens", "prefill ms", "time x", "CPU x", "gap ms", "step ms", "+ steps"),
        [
            (
                row.transport,
                row.push,
                str(row.num_tokens),
                f"{row.prefill_ms:.0f}",
                f"{row.prefill_ratio:.3f}",
                f"{row.cpu_ratio:.3f}",
                f"{row.gap_ms:.1f}",
                f"{row.step_ms:.1f}",
                f"{row.added_steps:.2f}",
            )
            for row in rows
        ],
    )
    return handoff_engine.as_json(rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("link", "push") else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
