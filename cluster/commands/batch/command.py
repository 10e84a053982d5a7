"""`baton batch`: a file of requests in, a file of answers out, from where it stopped the last time."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import BatonError, ConfigError
from cluster.commands.ask.endpoint import FAILURE_EXIT_CODE, default_endpoint, one_line_errors
from cluster.commands.batch.lines import numbers_of, read_lines
from cluster.commands.batch.record import BatchRecord
from cluster.commands.door_options import DoorOptions, open_door
from cluster.commands.files import check_outputs
from cluster.commands.option_groups import grouped
from cluster.commands.options import load_config
from cluster.commands.serve import own_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.doors.client_door import ClientDoor

INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceOptions:
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Requests at once.")] = 16
    max_retries: Annotated[
        int, typer.Option(min=0, help="Of a request that the server has no room for, or whose connection is lost.")
    ] = 10
    timeout_s: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds that one request may take.")] = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereOptions:
    url: Annotated[str | None, typer.Option(help="Of the server: http://host:port (default: the running cluster).")] = (
        None
    )
    config: Annotated[
        Path | None,
        typer.Option(metavar="CLUSTER.YAML", help="Start a cluster of one's own for this batch, and end it then."),
    ] = None
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="The same, with a key changed; may be repeated."),
    ] = None


@grouped
def command(
    pace: PaceOptions,
    where: WhereOptions,
    door: DoorOptions,
    requests: Annotated[Path, typer.Argument(metavar="IN.JSONL", help="Lines of custom_id, method, url, body.")],
    answers: Annotated[Path, typer.Argument(metavar="OUT.JSONL", help="Lines of custom_id, response, error.")],
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Send again what was answered by an error.")
    ] = False,
) -> None:
    """Answer a file of requests, in OpenAI's batch format.

    The file of answers is the record: called again, the command goes on with the lines that it lacks. Exit code: 0 when
    all are answered, 1 when some of the answers are errors, 130 after Ctrl-C.

    baton batch requests.jsonl answers.jsonl

    baton batch requests.jsonl answers.jsonl --set model=smollm2 --set http.port=0
    """
    with one_line_errors():
        check_outputs({"OUT.JSONL": answers}, inputs={"IN.JSONL": requests})
        opened = open_door(door)
        if where.url is not None and (where.config is not None or where.overrides):
            raise ConfigError("--url names a server, --config and --set start one; give one of the two")
        numbers = numbers_of(requests)
        with BatchRecord(answers) as record:
            record.check_is_of(numbers)
            if retry_failed:
                record.drop_failed()
            is_stopped = _answer_rest(requests, numbers, record, pace, where, opened)
            _tell(record, len(numbers), is_stopped=is_stopped)


def _answer_rest(
    requests: Path,
    numbers: Mapping[str, int],
    record: BatchRecord,
    pace: PaceOptions,
    where: WhereOptions,
    door: "ClientDoor",
) -> bool:
    """Returns whether it was interrupted."""
    if len(record.done) == len(numbers):
        return False
    signal.signal(signal.SIGTERM, lambda number, frame: _interrupt())
    try:
        with _server(where) as url, _bar(record, len(numbers)) as advance:
            asyncio.run(_work(requests, record, pace, url, door, advance))
    except KeyboardInterrupt:
        return True
    except BatonError as error:
        num_left = len(numbers) - len(record.done)
        if num_left < len(numbers):
            error.message += (
                f"; {len(record.done)} of {len(numbers)} lines are done, and the same command goes on there"
            )
        raise
    return False


def _interrupt() -> None:
    """As Ctrl-C, also of a shell's background job, which begins with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def _server(where: WhereOptions) -> Iterator[str]:
    """Its URL."""
    if where.config is None and not where.overrides:
        yield where.url or default_endpoint().http
        return
    with own_cluster(load_config(where.config, where.overrides)) as running:
        yield running.cluster.http


async def _work(
    requests: Path,
    record: BatchRecord,
    pace: PaceOptions,
    url: str,
    door: "ClientDoor",
    advance: "Callable[[], None]",
) -> None:
    from cluster.commands.batch.run import run_batch
    from cluster.commands.batch.sender import Sender

    async with Sender(url, door, max_retries=pace.max_retries, timeout_s=pace.timeout_s) as sender:
        await run_batch(read_lines(requests), sender.answer, record, concurrency=pace.concurrency, on_done=advance)


@contextmanager
def _bar(record: BatchRecord, num_lines: int) -> Iterator["Callable[[], None]"]:
    """Gives back what to call after each line."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    failed = TextColumn("{task.fields[failed]}")
    with Progress(TextColumn("lines"), *columns, failed, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task("lines", total=num_lines, completed=len(record.done), failed="")

        def advance() -> None:
            bar.update(task, advance=1, failed=f"{record.num_failed} failed" if record.num_failed else "")

        yield advance


def _tell(record: BatchRecord, num_lines: int, *, is_stopped: bool) -> None:
    num_done = len(record.done)
    failed = f", {record.num_failed} of them errors (--retry-failed sends these again)" if record.num_failed else ""
    typer.echo(f"{num_done} of {num_lines} lines answered{failed}: {record.path}", err=True)
    if is_stopped:
        typer.echo("stopped; the same command goes on there", err=True)
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    if record.num_failed:
        raise typer.Exit(FAILURE_EXIT_CODE)
