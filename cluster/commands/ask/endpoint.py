"""Where the running cluster answers, and how a command fails in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from baton.errors import BatonError, ConfigError, InvalidRequestError
from cluster.host import state

USAGE_EXIT_CODE = 2
FAILURE_EXIT_CODE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`http` is a URL, `grpc` is host:port."""

    http: str
    grpc: str

    @property
    def is_tls(self) -> bool:
        """Of both ports."""
        return self.http.startswith("https:")


_DEFAULT = Endpoint(http="http://127.0.0.1:8000", grpc="127.0.0.1:9000")


def default_endpoint() -> Endpoint:
    """What `baton up` noted in `cluster.host.state`, else the default ports of this machine.

    Raises:
        ConfigError: The file is there and holds something else.
    """
    running = state.read()
    if running is None:
        return _DEFAULT
    return Endpoint(http=running.http or _DEFAULT.http, grpc=running.grpc or _DEFAULT.grpc)


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
