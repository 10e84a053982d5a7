"""What other models' workers of this cluster hold of its nodes: each model's controller writes its own into Ray's
key-value store, and reads the others' before a worker gets its places.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

from cluster.fleet.needs import Need
from cluster.fleet.places import Taken
from cluster.fleet.status import RankStatus

_KV_NAMESPACE = b"baton-seats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Of one rank."""

    node_id: str
    cores: tuple[int, ...]
    resources: Mapping[str, float]  # of Ray's accounting


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """Of one or several models.

    Attributes:
        num_ranks: Of all workers that are wanted.
        seats: Of those that have places.
    """

    num_ranks: int = 0
    seats: tuple[Seat, ...] = ()

    def taken(self) -> list[Taken]:
        """As their roles stand in `needs`."""
        ranks = [RankStatus(node_id=seat.node_id, cores=seat.cores) for seat in self.seats]
        return [Taken(worker_id=_name(n), role=_name(n), rank=rank) for n, rank in enumerate(ranks)]

    def needs(self) -> dict[str, Need]:
        return {_name(n): Need(resources=seat.resources) for n, seat in enumerate(self.seats)}


def _name(number: int) -> str:
    return f"beside-{number}"


@dataclass(slots=True)
class Beside:
    """For one event loop. `namespace`: of this model's actors; models of one cluster have its first part in common."""

    namespace: str
    _told: Seats | None = field(default=None, init=False)

    @property
    def _family(self) -> str:
        return self.namespace.partition(".")[0]

    def tell(self, seats: Seats) -> None:
        """Where they are not as told before."""
        if seats != self._told:
            self._told = seats
            _internal_kv_put(self._key(), _dump(seats), overwrite=True, namespace=_KV_NAMESPACE)

    def forget(self) -> None:
        self._told = None
        _internal_kv_del(self._key(), namespace=_KV_NAMESPACE)

    def others(self) -> dict[str, Seats]:
        """By namespace."""
        prefix = f"{self._family}/".encode()
        keys: Sequence[bytes] = _internal_kv_list(prefix, namespace=_KV_NAMESPACE)
        raws = {key: _internal_kv_get(key, namespace=_KV_NAMESPACE) for key in keys if key != self._key()}
        return {key.removeprefix(prefix).decode(): _load(raw) for key, raw in raws.items() if raw}

    def _key(self) -> bytes:
        return f"{self._family}/{self.namespace}".encode()


def summed(several: Iterable[Seats]) -> Seats:
    all_of_them = list(several)
    return Seats(
        num_ranks=sum(seats.num_ranks for seats in all_of_them),
        seats=tuple(seat for seats in all_of_them for seat in seats.seats),
    )


def _dump(seats: Seats) -> bytes:
    rows = [[seat.node_id, seat.cores, dict(seat.resources)] for seat in seats.seats]
    return json.dumps({"num_ranks": seats.num_ranks, "seats": rows}).encode()


def _load(raw: bytes) -> Seats:
    told = json.loads(raw)
    seats = [Seat(node_id=node, cores=tuple(cores), resources=held) for node, cores, held in told["seats"]]
    return Seats(num_ranks=told["num_ranks"], seats=tuple(seats))
