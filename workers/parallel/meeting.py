"""Where ranks of a gang meet to make process groups, of all of them or of some."""

from datetime import timedelta
from typing import Any, NamedTuple

NO_GROUP = "none"  # of ranks that compute nothing, for tests of all that is around them
COLLECTIVE_TIMEOUT_S = 600.0  # of one all-reduce: a rank may still compute, a dead or silent one is seen elsewhere


class Told(NamedTuple):
    """What the leader tells the others."""

    store: str  # host:port; "" where there are no groups
    prefix: str  # in the store, of all that is the gang's; nobody can guess it
    backend: str  # gloo, nccl or `NO_GROUP`


class Meeting:
    """
    Args:
        host: This rank's address, of gloo's connections.
        timeout_s: How long to wait for the others.
        store: The leader's own; None: it is where `told` says.
    Raises: RuntimeError: the store is not there.
    """

    def __init__(self, told: Told, *, host: str, timeout_s: float, store: Any = None) -> None:
        self._told, self._host = told, host
        self._store = _join(told.store, timeout_s) if store is None and told.backend != NO_GROUP else store

    def group(self, name: str, rank: int, size: int) -> Any:
        """A torch process group of the ranks that give this name; None where there are none.

        Blocks until all of them have called it. Raises: RuntimeError, as torch does.
        """
        if self._told.backend == NO_GROUP:
            return None
        from workers.process_groups import make_group

        return make_group(
            self._told.backend,
            self._store,
            f"{self._told.prefix}/{name}",
            rank=rank,
            size=size,
            host=self._host,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            waits=False,
        )


def _join(address: str, timeout_s: float) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, _, port = address.rpartition(":")
    patience = timedelta(seconds=timeout_s)
    return TCPStore(host, int(port), is_master=False, timeout=patience, wait_for_workers=False)
