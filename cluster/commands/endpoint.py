"""Where the running cluster answers, and how a command fails in one line."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baton.errors import BatonError, ConfigError, InvalidRequestError

USAGE_EXIT_CODE = 2
FAILURE_EXIT_CODE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`http` is a URL, `grpc` is host:port."""

    http: str
    grpc: str


_DEFAULT = Endpoint(http="http://127.0.0.1:8000", grpc="127.0.0.1:9000")


def default_endpoint() -> Endpoint:
    """What `baton up` noted in cluster.json below $BATON_HOME (~/.baton), else the default ports of this machine.

    Raises:
        ConfigError: The file is there and holds something else.
    """
    path = Path(os.environ.get("BATON_HOME") or Path.home() / ".baton") / "cluster.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _DEFAULT
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it, or give --url or --grpc") from error
    if not isinstance(state, dict):
        raise ConfigError(f"{path} holds {type(state).__name__}, not an object; remove it, or give --url or --grpc")
    return Endpoint(http=_url(state.get("http") or _DEFAULT.http), grpc=str(state.get("grpc") or _DEFAULT.grpc))


def _url(address: object) -> str:
    text = str(address)
    return text if "://" in text else f"http://{text}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the command on a BatonError with one line on stderr: exit code 2 for wrong usage, 1 for the rest."""
    import typer

    try:
        yield
    except BatonError as error:
        typer.echo(f"error: {error.message}", err=True)
        is_usage = isinstance(error, ConfigError | InvalidRequestError)
        raise typer.Exit(USAGE_EXIT_CODE if is_usage else FAILURE_EXIT_CODE) from None
