"""The LoRA adapters that requests may name on one worker: by which id the runner knows each, and who may still ask.

One that is retired is told of no more, and who asks for it is served until it is removed: some were on their way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from baton.errors import InvalidRequestError, UnavailableError
from workers.adapters.adapter import AdapterName, AdapterSpec, root_hash


class Held(NamedTuple):
    adapter_id: int  # of the runner's, >= 1
    content_hash: str
    root_hash: int


@dataclass(slots=True)
class AdapterTable:
    """Of the engine's thread.

    Attributes:
        names: That new requests may name; another tuple after each change.
    """

    names: tuple[AdapterName, ...]
    _held: dict[str, Held]
    _worker_id: str

    def __init__(self, worker_id: str, adapters: Iterable[AdapterSpec] = ()) -> None:
        """`adapters`: that the runner has already, whose ids are their places, from 1."""
        self._worker_id = worker_id
        self._held = {}
        self.names = ()
        for adapter in adapters:
            self.add(adapter)

    @property
    def held(self) -> Mapping[str, Held]:
        """By name; retired ones too."""
        return self._held

    def free_id(self) -> int:
        """The lowest that no adapter has."""
        taken = {held.adapter_id for held in self._held.values()}
        return next(one for one in range(1, len(taken) + 2) if one not in taken)

    def add(self, adapter: AdapterSpec) -> None:
        assert adapter.name not in self._held, f"adapter {adapter.name} is here already"
        self._held[adapter.name] = Held(self.free_id(), adapter.content_hash, root_hash(adapter.content_hash))
        self.names = (*self.names, AdapterName(adapter.name, adapter.content_hash))

    def show(self, name: str) -> None:
        """Tells of it again. Idempotent."""
        self.names = (
            *(one for one in self.names if one.name != name),
            AdapterName(name, self._held[name].content_hash),
        )

    def retire(self, name: str) -> None:
        """Tells nobody of it any more. Idempotent."""
        self.names = tuple(one for one in self.names if one.name != name)

    def remove(self, name: str) -> Held | None:
        """Forgets it; None: it is not here."""
        self.retire(name)
        return self._held.pop(name, None)

    def find(self, wanted: AdapterName) -> Held:
        """Raises: UnavailableError: it is not here, or has other weights; another worker may have it."""
        if not wanted.name:
            raise InvalidRequestError("adapter: has no name; leave it out for the model as it is", "adapter")
        held = self._held.get(wanted.name)
        if held is None:
            raise UnavailableError(f"worker {self._worker_id} has no adapter {wanted.name!r}; try another")
        if held.content_hash != wanted.content_hash:
            raise UnavailableError(
                f"worker {self._worker_id} has other weights as adapter {wanted.name!r} ({held.content_hash} where "
                f"{wanted.content_hash} is asked for); try another"
            )
        return held
