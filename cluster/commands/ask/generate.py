"""`baton generate`: one prompt, its continuation on the terminal."""

import sys
from typing import Annotated

import typer

from cluster.commands.ask.endpoint import one_line_errors
from cluster.commands.door_options import DoorOptions, open_door
from cluster.commands.option_groups import grouped


@grouped
def command(
    door: DoorOptions,
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    max_tokens: Annotated[int | None, typer.Option(help="Default: as much as fits.")] = None,
    temperature: Annotated[float | None, typer.Option(help=">= 0; 0 is greedy. Default: the model's.")] = None,
    top_p: Annotated[float | None, typer.Option(help="In (0, 1]. Default: the model's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal texts.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None,
    speculation: Annotated[str | None, typer.Option(help="none: no drafts, the same text. Default: as served.")] = None,
    model: Annotated[str, typer.Option(help="Default: the one served.")] = "",
    stream: Annotated[bool, typer.Option(help="Print while it is written.")] = True,
    url: Annotated[str | None, typer.Option(help="Ask over HTTP: http://host:port")] = None,
    grpc: Annotated[str | None, typer.Option(help="Ask over gRPC: host:port (default: the running cluster)")] = None,
) -> None:
    """Continue a text.

    baton generate "Once upon a time" --max-tokens 64

    baton generate - --temperature 0 < prompt.txt
    """
    with one_line_errors():
        from cluster.commands.ask.answers import open_source
        from cluster.commands.ask.source import Ask

        ask = Ask(
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=tuple(stop or ()),
            speculation=speculation,
        )
        text = sys.stdin.read() if prompt == "-" else prompt
        with open_source(url, grpc, open_door(door)) as source, source.answer(text, ask) as pieces:
            if stream:
                for piece in pieces:
                    typer.echo(piece, nl=False)
                    sys.stdout.flush()
                typer.echo()
            else:
                typer.echo("".join(pieces))
