"""`baton bench`: options in, a table and files out; the work is `bench.load`'s."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import ConfigError, UnavailableError
from cluster.commands.endpoint import default_endpoint, one_line_errors
from cluster.commands.files import check_outputs, check_picture

_SERVER, _LOAD, _WORKLOAD, _OUTPUT = "Server", "Load (one of)", "Workload", "Output"


def command(
    targets: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    backend: Annotated[str, typer.Option(help="openai, openai-chat or grpc.", rich_help_panel=_SERVER)] = "openai",
    url: Annotated[
        str | None, typer.Option(help="Base URL for openai and openai-chat.", rich_help_panel=_SERVER)
    ] = None,
    grpc: Annotated[str | None, typer.Option(help="host:port for grpc.", rich_help_panel=_SERVER)] = None,
    model: Annotated[str, typer.Option(help="Default: the first one served.", rich_help_panel=_SERVER)] = "",
    concurrency: Annotated[
        int | None, typer.Option(help="Requests at once (default: 16).", rich_help_panel=_LOAD)
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests/s, at random times.", rich_help_panel=_LOAD)] = None,
    burstiness: Annotated[
        float | None,
        typer.Option(help="With --rate: 1 (default) is Poisson, less is burstier.", rich_help_panel=_LOAD),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Azure .csv or Mooncake .jsonl: times and lengths.", rich_help_panel=_LOAD),
    ] = None,
    trace_speed: Annotated[float | None, typer.Option(help="2 replays twice as fast.", rich_help_panel=_LOAD)] = None,
    num_prompts: Annotated[
        int | None, typer.Option(help="Default: 100, or all of --prompts.", rich_help_panel=_WORKLOAD)
    ] = None,
    input_len: Annotated[
        int | None, typer.Option(help="Prompt tokens (default: 512).", rich_help_panel=_WORKLOAD)
    ] = None,
    output_len: Annotated[
        int | None, typer.Option(help="Output tokens (default: 128).", rich_help_panel=_WORKLOAD)
    ] = None,
    range_ratio: Annotated[
        float, typer.Option(help="Lengths vary by this share, in [0, 1).", rich_help_panel=_WORKLOAD)
    ] = 0.0,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt per line, or .jsonl with 'prompt'.", rich_help_panel=_WORKLOAD),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Rows read of --prompts or --trace.", rich_help_panel=_WORKLOAD)
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Cut requests that exceed the context.", rich_help_panel=_WORKLOAD)
    ] = False,
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Token ids are below it (default: the server's).", rich_help_panel=_WORKLOAD),
    ] = None,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Exact output lengths (default: unless --prompts).",
            rich_help_panel=_WORKLOAD,
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=_WORKLOAD)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of prompts, lengths and times.", rich_help_panel=_WORKLOAD)] = 0,
    warmup: Annotated[int, typer.Option(help="Requests sent first and not counted.", rich_help_panel=_WORKLOAD)] = 0,
    timeout_s: Annotated[float, typer.Option(help="Per request.", rich_help_panel=_WORKLOAD)] = 600.0,
    goodput: Annotated[
        list[str] | None,
        typer.Option(help="Targets in ms: --goodput ttft:500 tpot:50", rich_help_panel=_OUTPUT),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Result by vllm bench serve's names.", rich_help_panel=_OUTPUT),
    ] = None,
    save_detailed: Annotated[
        bool, typer.Option("--save-detailed", help="Per-request lists in --json too.", rich_help_panel=_OUTPUT)
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Picture, by suffix .png, .svg, .pdf.", rich_help_panel=_OUTPUT)
    ] = None,
) -> None:
    """Measure a running server under load: TTFT, TPOT, ITL, throughput, goodput.

    baton bench --concurrency 8 --input-len 256 --output-len 64

    baton bench --rate 4 --num-prompts 200 --goodput ttft:500 tpot:50 --plot out.png

    baton bench --trace conversation_trace.jsonl --limit 500 --trace-speed 2 --clip
    """
    with one_line_errors():
        from bench.load.options import LoadOptions, parse_goodput

        if targets and not goodput:
            raise ConfigError(f"unexpected argument {targets[0]!r}; see baton bench --help")
        if save_detailed and json_path is None:
            raise ConfigError("--save-detailed adds to the file of --json; give --json FILE too")
        options = LoadOptions(
            backend=backend,
            address=_address(backend, url, grpc),
            model=model,
            concurrency=concurrency,
            rate=rate,
            burstiness=burstiness,
            num_prompts=num_prompts,
            warmup=warmup,
            seed=seed,
            input_len=input_len,
            output_len=output_len,
            range_ratio=range_ratio,
            prompts=prompts,
            trace=trace,
            trace_speed=trace_speed,
            limit=limit,
            clip=clip,
            vocab_size=vocab_size,
            ignore_eos=ignore_eos,
            temperature=temperature,
            timeout_s=timeout_s,
            goodput=parse_goodput([*(goodput or ()), *(targets or ())]),
        )
        check_outputs({"--json": json_path, "--plot": plot}, inputs={"--trace": trace, "--prompts": prompts})
        check_picture(plot, "--plot")
        _report(options, json_path, plot, save_detailed=save_detailed)


def _address(backend: str, url: str | None, grpc: str | None) -> str:
    if backend == "grpc":
        if url is not None:
            raise ConfigError("--url is for openai and openai-chat; give --grpc host:port with --backend grpc")
        return grpc or default_endpoint().grpc
    if grpc is not None:
        raise ConfigError(f"--grpc needs --backend grpc; --backend {backend} takes --url")
    return url or default_endpoint().http


def _report(options: Any, json_path: Path | None, plot: Path | None, *, save_detailed: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from bench.load.session import Progress, detailed, measure
    from bench.load.table import result_table

    console = Console()
    columns = (
        TextColumn("requests"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Bar(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("requests", total=None, failed="")
        num_failed = 0

        def advance(record: Any) -> None:
            nonlocal num_failed
            num_failed += bool(record.error)
            bar.update(task, advance=1, failed=f"{num_failed} failed" if num_failed else "")

        progress = Progress(
            note=lambda text: console.print(f"note: {text}", highlight=False),
            start=lambda total: bar.update(task, total=total),
            advance=advance,
        )
        measurement = _run(measure(options, progress))
    result = measurement.result
    console.print(result_table(result))
    if json_path is not None:
        content = result | (detailed(measurement) if save_detailed else {})
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if plot is not None and result["completed"]:
        from bench.load.plot import draw

        draw(measurement, plot)
    if not result["completed"]:
        raise UnavailableError("no request completed")


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """On uvloop: half the CPU per event of asyncio's own loop. Ctrl-C cancels `work`, which then returns early."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
