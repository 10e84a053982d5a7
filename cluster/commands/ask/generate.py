"""`baton generate`: one prompt, its continuation on the terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.commands.ask.endpoint import one_line_errors
from cluster.commands.ask.source import Ask
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
    schema: Annotated[Path | None, typer.Option(help="A file with a JSON schema: the answer is JSON of it.")] = None,
    regex: Annotated[str | None, typer.Option(help="The answer matches it as a whole.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="The answer is one of them; may be repeated.")] = None,
    model: Annotated[str, typer.Option(help="Default: the one served.")] = "",
    stream: Annotated[bool, typer.Option(help="Print while it is written.")] = True,
    url: Annotated[str | None, typer.Option(help="Ask over HTTP: http://host:port")] = None,
    grpc: Annotated[str | None, typer.Option(help="Ask over gRPC: host:port (default: the running cluster)")] = None,
) -> None:
    """Continue a text.

    baton generate "Once upon a time" --max-tokens 64

    baton generate - --temperature 0 < prompt.txt

    baton generate "Is the sky blue? " --choice yes --choice no
    """
    with one_line_errors():
        from cluster.commands.ask.answers import open_source

        ask = Ask(
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=tuple(stop or ()),
            speculation=speculation,
            schema=_text(schema) if schema is not None else None,
            regex=regex,
            choices=tuple(choice or ()),
        )
        _check_one_form(ask)
        text = sys.stdin.read() if prompt == "-" else prompt
        with open_source(url, grpc, open_door(door)) as source, source.answer(text, ask) as pieces:
            if stream:
                for piece in pieces:
                    typer.echo(piece, nl=False)
                    sys.stdout.flush()
                typer.echo()
            else:
                typer.echo("".join(pieces))


def _text(path: Path) -> str:
    """Raises: ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--schema {path} cannot be read ({error}); give a file with a JSON schema") from error


def _check_one_form(ask: Ask) -> None:
    if len(ask.form()) > 1:
        raise ConfigError("--schema, --regex and --choice each say what the answer must be; give one of them")
