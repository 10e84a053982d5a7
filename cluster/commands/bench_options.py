"""The options of `baton bench`, by group; `cluster.load.options` says what they mean together, and checks them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

SERVER, LOAD, WORKLOAD, OUTPUT = "Server", "Load (one of)", "Workload", "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    backend: Annotated[str, typer.Option(help="openai, openai-chat or grpc.", rich_help_panel=SERVER)] = "openai"
    url: Annotated[str | None, typer.Option(help="Base URL for openai and openai-chat.", rich_help_panel=SERVER)] = None
    grpc: Annotated[str | None, typer.Option(help="host:port for grpc.", rich_help_panel=SERVER)] = None
    model: Annotated[str, typer.Option(help="Default: the first one served.", rich_help_panel=SERVER)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceOptions:
    concurrency: Annotated[int | None, typer.Option(help="Requests at once (default: 16).", rich_help_panel=LOAD)] = (
        None
    )
    rate: Annotated[float | None, typer.Option(help="Requests/s, at random times.", rich_help_panel=LOAD)] = None
    burstiness: Annotated[
        float | None,
        typer.Option(help="With --rate: 1 (default) is Poisson, less is burstier.", rich_help_panel=LOAD),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(help="Azure .csv or Mooncake .jsonl: times and lengths.", rich_help_panel=LOAD),
    ] = None
    trace_speed: Annotated[float | None, typer.Option(help="2 replays twice as fast.", rich_help_panel=LOAD)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    num_prompts: Annotated[
        int | None, typer.Option(help="Default: 100, or all of --prompts.", rich_help_panel=WORKLOAD)
    ] = None
    input_len: Annotated[int | None, typer.Option(help="Prompt tokens (default: 512).", rich_help_panel=WORKLOAD)] = (
        None
    )
    output_len: Annotated[int | None, typer.Option(help="Output tokens (default: 128).", rich_help_panel=WORKLOAD)] = (
        None
    )
    range_ratio: Annotated[
        float, typer.Option(help="Lengths vary by this share, in [0, 1).", rich_help_panel=WORKLOAD)
    ] = 0.0
    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt per line, or .jsonl with 'prompt'.", rich_help_panel=WORKLOAD),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Rows read of --prompts or --trace.", rich_help_panel=WORKLOAD)] = (
        None
    )
    clip: Annotated[
        bool, typer.Option("--clip", help="Cut requests that exceed the context.", rich_help_panel=WORKLOAD)
    ] = False
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Token ids are below it (default: the server's).", rich_help_panel=WORKLOAD),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Exact output lengths (default: unless --prompts).",
            rich_help_panel=WORKLOAD,
        ),
    ] = None
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=WORKLOAD)] = 0.0
    seed: Annotated[int, typer.Option(help="Of prompts, lengths and times.", rich_help_panel=WORKLOAD)] = 0
    warmup: Annotated[int, typer.Option(help="Requests sent first and not counted.", rich_help_panel=WORKLOAD)] = 0
    timeout_s: Annotated[float, typer.Option(help="Per request.", rich_help_panel=WORKLOAD)] = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOutput:
    goodput: Annotated[
        list[str] | None,
        typer.Option(help="Targets in ms: --goodput ttft:500 tpot:50", rich_help_panel=OUTPUT),
    ] = None
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Result by vllm bench serve's names.", rich_help_panel=OUTPUT),
    ] = None
    save_detailed: Annotated[
        bool, typer.Option("--save-detailed", help="Per-request lists in --json too.", rich_help_panel=OUTPUT)
    ] = False
    plot: Annotated[Path | None, typer.Option(help="Picture, by suffix .png, .svg, .pdf.", rich_help_panel=OUTPUT)] = (
        None
    )
