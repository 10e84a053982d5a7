"""What a run asks of a server: list the models, encode a request ahead of time, answer it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.load.record import Record
from cluster.load.requests import LoadRequest

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """None: the server does not say."""

    id: str
    max_model_len: int | None = None
    vocab_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What every request of a run asks for; `seed` and `vocab_size` are those of its prompts' token ids."""

    model: str
    seed: int
    vocab_size: int
    temperature: float
    ignore_eos: bool
    timeout_s: float


class Backend(Protocol):
    """One connection to one server, used on one event loop."""

    async def models(self) -> list[ServedModel]:
        """What is served; UnavailableError when no server answers."""

    def encode(self, request: LoadRequest, sampling: Sampling) -> Any:
        """All work that can be done before the request is due; its result is `send`'s payload."""

    async def send(self, payload: Any, record: Record) -> None:
        """Sends, and notes in `record` every token's time, the counts, and the error of a request that failed.

        A refusal, a lost connection and a passed deadline are the record's `error`, never an exception.
        """

    async def close(self) -> None:
        """Drops the connection."""
