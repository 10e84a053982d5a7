"""What the ingress needs of a dispatcher; `cluster.router.dispatcher.Dispatcher` is one, tests bring another. And what
of whoever keeps the cluster's adapters."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from baton.v1 import worker_pb2
from cluster.contracts.tuning import Tuning
from cluster.router.counters import Counters
from cluster.router.dispatcher import DispatchRequest
from cluster.router.handovers import Handovers
from cluster.router.table import Health
from cluster.router.workers import WorkerView


class Dispatch(Protocol):
    @property
    def max_model_len(self) -> int: ...

    @property
    def max_request_tokens(self) -> int: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def adapters(self) -> Mapping[str, str]:
        """LoRA, that requests may name -> hash of its content."""
        ...

    def generate(self, request: DispatchRequest) -> AsyncGenerator[list[worker_pb2.TokenOutput], None]:
        """In order per choice, no token twice, one final output per choice; closing it aborts everywhere."""
        ...

    def abort_choice(self, request_id: str, choice: int) -> None: ...

    def tune(self, tuning: Tuning) -> None:
        """Limits from now on, the config's where it has none."""
        ...

    def states(self) -> Sequence[WorkerView]: ...

    def health(self) -> Health: ...

    handovers: Handovers


class AdapterLoading(Protocol):
    """See `cluster.ingress.controller_link.AdapterClient`."""

    async def load(self, name: str, folder: str) -> None:
        """On every worker. Raises: InvalidRequestError, UnavailableError."""
        ...

    async def unload(self, name: str) -> None:
        """Raises: ModelNotFoundError, UnavailableError."""
        ...
