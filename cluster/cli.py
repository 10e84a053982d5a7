"""The `baton` command. Only the command that is called is imported, so that `baton --help` answers at once."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from baton.errors import BatonError, ConfigError, InvalidRequestError

COMMANDS = {
    "up": "Start a cluster, or apply a changed file to the running one; returns when it answers.",
    "serve": "The same in the foreground: Ctrl-C ends everything.",
    "keep": "Keep a cluster on somebody else's Ray as a file says; for pods.",
    "status": "Pools, workers, blocks, requests and KV transfers of the running cluster.",
    "weights": "Share a model's requests among its versions, at once.",
    "switch": "Send a model's requests to one of its versions; and back.",
    "drain": "Empty a node before maintenance; without one, list the nodes and what is on them.",
    "down": "Finish what runs, then end the cluster and every process of it.",
    "generate": "Continue a text.",
    "chat": "Talk to the model.",
    "batch": "Answer a file of requests in OpenAI's batch format; called again, it goes on where it stopped.",
    "trace": "Show where the time of a recent request went, or list the last and the slowest.",
    "bench": "Measure a running server: TTFT, TPOT, ITL, throughput, goodput.",
    "role": "Change what a worker does while it serves: read prompts, write answers, or both.",
    "adapter": "Load, unload and list LoRA adapters of the running cluster.",
    "key": "Make, list and revoke API keys.",
    "fetch": "Fetch a model by name, before the first start does.",
    "profile": "Measure what this machine's prefill, decode and KV transfer take, for plan and simulate.",
    "plan": "How many workers of which kind hold an SLO for the fewest devices; writes a config for `up`.",
    "simulate": "Run a cluster's policies under a virtual clock, with faults if asked.",
    "doctor": "Check this machine: Python, torch, CUDA, Ray, ports, memory, model.",
}

# Commands of several files have a room of their own.
ROOMS = {
    "plan": "plan.command",
    "simulate": "simulate.command",
    "generate": "ask.generate",
    "chat": "ask.chat",
    "batch": "batch.command",
    "trace": "trace.command",
}

# Those that have commands of their own.
GROUPS = ("adapter", "key")

HELP = """Serve large language models on Ray, prompts read by one pool of workers and answers written by another.

  baton up                         a small chat model (smollm2), HTTP on :8000, gRPC on :9000

  baton up cluster.yaml --set http.port=0    a file, one key changed

  baton chat                       talk to it

  baton status --watch             see what it does

  baton down                       end it

BATON_HOME (~/.baton) holds a cluster's state; another folder is another cluster beside it.
BATON_CACHE (~/.cache/baton) holds fetched models and compiled kernels.
RAY_ADDRESS joins a Ray cluster that runs. BATON_DEBUG=1 shows tracebacks.
"""


def build(arguments: Sequence[str]) -> typer.Typer:
    """The app with all names, and the code of the one that `arguments` call."""
    app = typer.Typer(
        help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == chosen and name in GROUPS:
            app.add_typer(_load(name), name=name, short_help=summary)
        elif name == chosen:
            app.command(name, short_help=summary)(_load(name))
        else:
            app.command(name, help=summary)(_not_called)
    app.callback()(_options)
    return app


def main() -> None:
    try:
        build(sys.argv[1:])(prog_name="baton")
    except KeyboardInterrupt:
        sys.exit(130)
    except BatonError as error:
        _fail(error, error.message)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        _fail(error, f"{type(error).__name__}: {lines[0]}; BATON_DEBUG=1 shows where")


def _fail(error: Exception, message: str) -> None:
    if os.environ.get("BATON_DEBUG") == "1":
        raise error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigError | InvalidRequestError) else 1)


def _load(name: str) -> Any:
    try:
        command = importlib.import_module(f"cluster.commands.{ROOMS.get(name, name)}").command
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"baton {name} needs the package {error.name}; install it: pip install 'baton-serve[server]'"
        ) from error
    return command


def _not_called() -> None:
    """Stands for a command that these arguments do not call."""


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(version("baton-serve"))
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Options of `baton` itself."""


if __name__ == "__main__":
    main()
