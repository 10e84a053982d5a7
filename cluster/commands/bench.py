"""`baton bench`: options in, a table and files out; the work is `cluster.load`'s."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from baton.errors import ConfigError, UnavailableError
from cluster.commands.ask.endpoint import default_endpoint, one_line_errors
from cluster.commands.bench_options import BenchOutput, PaceOptions, ServerOptions, WorkloadOptions
from cluster.commands.door_options import DoorOptions, open_door
from cluster.commands.files import check_outputs, check_picture
from cluster.commands.option_groups import grouped

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.doors.client_door import ClientDoor
    from cluster.load.options import LoadOptions
    from cluster.load.record import Record
    from cluster.load.session import Measurement

T = TypeVar("T")


@grouped
def command(
    server: ServerOptions,
    pace: PaceOptions,
    workload: WorkloadOptions,
    output: BenchOutput,
    door: DoorOptions,
    targets: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Measure a running server under load: TTFT, TPOT, ITL, throughput, goodput.

    baton bench --concurrency 8 --input-len 256 --output-len 64

    baton bench --rate 4 --num-prompts 200 --goodput ttft:500 tpot:50 --plot out.png

    baton bench --trace conversation_trace.jsonl --limit 500 --trace-speed 2 --clip
    """
    with one_line_errors():
        from cluster.load.options import LoadOptions, parse_goodput

        if targets and not output.goodput:
            raise ConfigError(f"unexpected argument {targets[0]!r}; see baton bench --help")
        if output.save_detailed and output.json_path is None:
            raise ConfigError("--save-detailed adds to the file of --json; give --json FILE too")
        options = LoadOptions(
            backend=server.backend,
            address=_address(server),
            model=server.model,
            door=_opened(server, door),
            **asdict(pace),
            **asdict(workload),
            goodput=parse_goodput([*(output.goodput or ()), *(targets or ())]),
        )
        inputs = {"--trace": pace.trace, "--prompts": workload.prompts}
        check_outputs({"--json": output.json_path, "--plot": output.plot}, inputs=inputs)
        check_picture(output.plot, "--plot")
        _report(options, output)


def _address(server: ServerOptions) -> str:
    if server.backend == "grpc":
        if server.url is not None:
            raise ConfigError("--url is for openai and openai-chat; give --grpc host:port with --backend grpc")
        return server.grpc or default_endpoint().grpc
    if server.grpc is not None:
        raise ConfigError(f"--grpc needs --backend grpc; --backend {server.backend} takes --url")
    return server.url or default_endpoint().http


def _opened(server: ServerOptions, options: DoorOptions) -> "ClientDoor":
    """Where no address is given, the running cluster says whether it speaks TLS."""
    door = open_door(options)
    if server.backend == "grpc" and server.grpc is None and door.tls is None:
        return replace(door, tls=default_endpoint().is_tls)
    return door


def _report(options: "LoadOptions", output: BenchOutput) -> None:
    from rich.console import Console

    from cluster.load.session import detailed
    from cluster.load.table import result_table

    console = Console()
    measurement = _measured(options, console)
    result = measurement.result
    console.print(result_table(result))
    if output.json_path is not None:
        content = result | (detailed(measurement) if output.save_detailed else {})
        output.json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if output.plot is not None and result["completed"]:
        from cluster.load.plot import draw

        draw(measurement, output.plot)
    if not result["completed"]:
        raise UnavailableError("no request completed")


def _measured(options: "LoadOptions", console: "Console") -> "Measurement":
    """With a bar that counts answers, and failures among them."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBars

    from cluster.load.session import Progress, measure

    counted = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[failed]}"))
    with ProgressBars(TextColumn("requests"), *counted, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("requests", total=None, failed="")
        num_failed = 0

        def advance(record: "Record") -> None:
            nonlocal num_failed
            num_failed += bool(record.error)
            bar.update(task, advance=1, failed=f"{num_failed} failed" if num_failed else "")

        progress = Progress(
            note=lambda text: console.print(f"note: {text}", highlight=False),
            start=lambda total: bar.update(task, total=total),
            advance=advance,
        )
        return _run(measure(options, progress))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """On uvloop: half the CPU per event of asyncio's own loop. Ctrl-C cancels `work`, which then returns early."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
