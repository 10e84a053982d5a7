"""Streams one answer's text from a server, over the gRPC SDK or over OpenAI's HTTP API."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import baton
from baton.errors import ConfigError
from cluster.commands.ask.endpoint import default_endpoint
from cluster.commands.ask.http_answers import HTTPSource
from cluster.commands.ask.source import Ask, Source
from cluster.doors.client_door import ClientDoor


class GRPCSource:
    """The SDK."""

    def __init__(self, target: str, door: ClientDoor, *, is_tls: bool | None) -> None:
        self._client = baton.Client(target, **door.for_grpc(is_tls=is_tls))

    @contextmanager
    def answer(self, prompt: str | Sequence[baton.Message], ask: Ask) -> Iterator[Iterator[str]]:
        form = {"schema" if name == "json" else name: value for name, value in ask.form().items()}
        with self._client.stream(prompt, model=ask.model, **form, **ask.sampling()) as stream:
            yield (delta.text for delta in stream)

    def close(self) -> None:
        self._client.close()


@contextmanager
def open_source(url: str | None, grpc: str | None, door: ClientDoor | None = None) -> Iterator[Source]:
    """Over HTTP where `url` is given, else over gRPC to `grpc` or to the running cluster."""
    door = door or ClientDoor()
    if url is not None and grpc is not None:
        raise ConfigError("--url and --grpc name two servers; give one of them")
    if url is not None:
        with closing(HTTPSource(url, door)) as http_source:
            yield http_source
        return
    running = default_endpoint() if grpc is None else None
    target, is_tls = (grpc or "", None) if running is None else (running.grpc, running.is_tls)
    with closing(GRPCSource(target, door, is_tls=is_tls)) as grpc_source:
        yield grpc_source
