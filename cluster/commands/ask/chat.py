"""`baton chat`: a conversation on the terminal. The history lives here; every turn sends all of it."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

import baton
from cluster.commands.ask.answers import open_source
from cluster.commands.ask.endpoint import one_line_errors
from cluster.commands.ask.source import Ask, Source
from cluster.commands.door_options import DoorOptions, open_door
from cluster.commands.option_groups import grouped

_HELP = "/reset forgets the conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer"


@grouped
def command(
    door: DoorOptions,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Of each answer; all turns share the model's context.")] = 512,
    temperature: Annotated[float | None, typer.Option(help=">= 0; 0 is greedy. Default: the model's.")] = None,
    top_p: Annotated[float | None, typer.Option(help="In (0, 1]. Default: the model's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal answers.")] = None,
    speculation: Annotated[str | None, typer.Option(help="none: no drafts, the same text. Default: as served.")] = None,
    model: Annotated[str, typer.Option(help="Default: the one served.")] = "",
    url: Annotated[str | None, typer.Option(help="Ask over HTTP: http://host:port")] = None,
    grpc: Annotated[str | None, typer.Option(help="Ask over gRPC: host:port (default: the running cluster)")] = None,
) -> None:
    """Talk with the model.

    In the conversation /reset forgets it, /quit or Ctrl-D ends it, and Ctrl-C stops an answer.

    baton chat --system "You are a sailor." --temperature 0.7
    """
    ask = Ask(
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        speculation=speculation,
    )
    with one_line_errors(), open_source(url, grpc, open_door(door)) as source:
        Conversation(source, ask, system).run()


class Conversation:
    """`history` begins with the system prompt if there is one; a turn that failed is not kept."""

    def __init__(
        self, source: Source, ask: Ask, system: str | None, *, read_line: Callable[[], str | None] | None = None
    ) -> None:
        """`read_line` gives None at the end of input; by default it asks on the terminal."""
        self._source = source
        self._ask = ask
        self._read_line = read_line or _read_line
        self._opening: list[baton.Message] = [{"role": "system", "content": system}] if system else []
        self.history: list[baton.Message] = list(self._opening)

    def run(self) -> None:
        """Until /quit, Ctrl-D, or the end of standard input."""
        typer.echo(_HELP, err=True)
        while (line := self._read_line()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            if text == "/reset":
                self.history = list(self._opening)
                typer.echo("The conversation begins anew.", err=True)
            elif text.startswith("/"):
                typer.echo(f"{text.split()[0]} is no command: {_HELP}", err=True)
            elif text:
                self._turn(text)

    def _turn(self, text: str) -> None:
        question: baton.Message = {"role": "user", "content": text}
        written: list[str] = []
        try:
            with self._source.answer([*self.history, question], self._ask) as pieces:
                for piece in pieces:
                    written.append(piece)
                    typer.echo(piece, nl=False)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            typer.echo(" [stopped]", nl=False, err=True)
        except baton.InvalidRequestError as error:  # such as a history over the context
            hint = "; /reset forgets the conversation" if len(self.history) > len(self._opening) else ""
            typer.echo(f"error: {error.message}{hint}", err=True)
            return
        typer.echo()
        self.history += [question, {"role": "assistant", "content": "".join(written)}]


def _read_line() -> str | None:
    """None at the end of input; Ctrl-C at the prompt only drops the line."""
    while True:
        try:
            return input("> ")
        except EOFError:
            typer.echo()
            return None
        except KeyboardInterrupt:
            typer.echo()
