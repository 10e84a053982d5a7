"""Streams one answer's text from a server, over the gRPC SDK or over OpenAI's HTTP API."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import baton
from baton.errors import ConfigError
from cluster.commands.endpoint import default_endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the commands let a user set; None or empty: the server's default."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def sampling(self) -> dict[str, Any]:
        """The options that are set, by the names that both APIs share."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        given = {name: value for name, value in values.items() if value is not None}
        return given | {"stop": list(self.stop)} if self.stop else given


class Source(Protocol):
    """A server to ask; a failure of either kind is a BatonError."""

    def answer(self, prompt: str | Sequence[baton.Message], ask: Ask) -> AbstractContextManager[Iterator[str]]:
        """The pieces of the answer's text as they come; leaving the block ends the request."""


class GRPCSource:
    """The SDK."""

    def __init__(self, target: str) -> None:
        self._client = baton.Client(target)

    @contextmanager
    def answer(self, prompt: str | Sequence[baton.Message], ask: Ask) -> Iterator[Iterator[str]]:
        with self._client.stream(prompt, model=ask.model, **ask.sampling()) as stream:
            yield (delta.text for delta in stream)

    def close(self) -> None:
        self._client.close()


@contextmanager
def open_source(url: str | None, grpc: str | None) -> Iterator[Source]:
    """Over HTTP where `url` is given, else over gRPC to `grpc` or to the running cluster."""
    if url is not None and grpc is not None:
        raise ConfigError("--url and --grpc name two servers; give one of them")
    if url is not None:
        from cluster.commands.http_answers import HTTPSource

        with closing(HTTPSource(url)) as http_source:
            yield http_source
    else:
        with closing(GRPCSource(grpc or default_endpoint().grpc)) as grpc_source:
            yield grpc_source
