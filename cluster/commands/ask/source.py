"""What a command asks of a server, and what it takes of one: both APIs' common ground."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import baton


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the commands let a user set; None or empty: the server's default."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    speculation: str | None = None
    schema: str | None = None  # JSON's text
    regex: str | None = None
    choices: tuple[str, ...] = ()

    def form(self) -> dict[str, Any]:
        """What form the answer must have, as vLLM's HTTP field says it; empty: any text."""
        asked = {"json": self.schema, "regex": self.regex, "choice": list(self.choices) or None}
        return {name: value for name, value in asked.items() if value is not None}

    def sampling(self) -> dict[str, Any]:
        """The options that are set, by the names that both APIs share."""
        names = ("max_tokens", "temperature", "top_p", "seed", "speculation")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in values.items() if value is not None}
        return given | {"stop": list(self.stop)} if self.stop else given


class Source(Protocol):
    """A server to ask; a failure of either kind is a BatonError."""

    def answer(self, prompt: str | Sequence[baton.Message], ask: Ask) -> AbstractContextManager[Iterator[str]]:
        """The pieces of the answer's text as they come; leaving the block ends the request."""
