"""`baton trace`: how one request went, or which ones there were."""

import json
import shutil
from typing import Annotated, Any
from urllib.parse import quote

import typer

from baton.errors import ConfigError
from cluster.commands.ask.endpoint import one_line_errors
from cluster.commands.door_options import DoorOptions, open_door
from cluster.commands.option_groups import grouped

PATH = "/cluster/requests"
MAX_LISTED = 1000


@grouped
def command(
    door: DoorOptions,
    request_id: Annotated[
        str | None, typer.Argument(metavar="[REQUEST_ID]", help="An answer's id, or the X-Request-Id of a request.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, max=MAX_LISTED, help="List so many, the newest first.")] = None,
    slowest: Annotated[int | None, typer.Option(min=1, max=MAX_LISTED, help="List the slowest of those kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As the server says it: see docs/observability.md.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Of a server: http://host:port (default: the running cluster)")
    ] = None,
) -> None:
    """Show where the time of a recent request went: queue, workers, chunks, KV transfer, tokens, guesses.

    baton trace chatcmpl-4c6b2f0f9d0b4f0e8a3f5f7d1c2b3a49

    baton trace --last 20

    baton trace --slowest 5 --json

    Nothing has to be switched on: each ingress replica keeps its last requests (`tracing.keep`). With API keys a key
    sees its own requests.
    """
    with one_line_errors():
        if sum(one is not None for one in (request_id, last, slowest)) != 1:
            raise ConfigError("give one of REQUEST_ID, --last N and --slowest N")
        from cluster.commands.ask.endpoint import default_endpoint
        from cluster.commands.ask.http_answers import HTTPSource

        source = HTTPSource(url or default_endpoint().http, open_door(door))
        try:
            if request_id is not None:
                _show(source.get(f"{PATH}/{quote(request_id, safe='')}"), as_json=as_json)
            else:
                order, limit = ("last", last) if last is not None else ("slowest", slowest)
                _list(source.get(f"{PATH}?order={order}&limit={limit}"), as_json=as_json)
        finally:
            source.close()


def _show(timeline: dict[str, Any], *, as_json: bool) -> None:
    from cluster.commands.trace.chart import chart

    typer.echo(
        json.dumps(timeline, indent=1) if as_json else chart(timeline, shutil.get_terminal_size((120, 24)).columns)
    )


def _list(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    from cluster.commands.trace.chart import table

    typer.echo(table(answer["requests"]))
