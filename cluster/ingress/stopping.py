"""Tells a replica when Serve begins to stop it, which Serve itself says to nobody.

Ray 2.60 closes the replica's listeners a moment later, waits until nothing runs any more, and kills it when its
`graceful_shutdown_timeout_s` is over: by then whoever still waits for an answer should have been told.
"""

from collections.abc import Callable
from typing import Any

from baton.errors import InternalError


def when_it_stops(begin: Callable[[], None]) -> None:
    """In a replica, of which each process has one. Raises: InternalError: this version of Ray stops it another way."""
    from ray.serve._private import replica

    kind = getattr(replica, "Replica", None)
    stop = getattr(kind, "_perform_graceful_shutdown", None)
    if kind is None or not callable(stop):
        raise InternalError("this version of Ray Serve stops replicas in an unknown way; use ray 2.60")

    async def perform_graceful_shutdown(self: Any) -> None:
        begin()
        await stop(self)

    kind._perform_graceful_shutdown = perform_graceful_shutdown
