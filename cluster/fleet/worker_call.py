"""Asks a worker, over Ray, from the controller's event loop."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from baton.errors import BatonError, UnavailableError
from cluster.fleet.record import WorkerRecord, first_line

logger = logging.getLogger(__name__)


class Call(Protocol):
    def __call__(self, worker: WorkerRecord, method: str, *arguments: Any, timeout_s: float) -> Awaitable[Any]:
        """None where the worker is gone. Raises: BatonError: what it says; UnavailableError: it says nothing."""
        ...


async def call_worker(worker: WorkerRecord, method: str, *arguments: Any, timeout_s: float) -> Any:
    """See `Call`."""
    assert worker.launched is not None
    actor = worker.launched.actors[0]
    try:
        reference = getattr(actor, method).remote(*arguments)
        return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, BatonError):
            raise cause from None
        raise UnavailableError(f"worker {worker.worker_id} failed: {first_line(error)}") from error
    except TimeoutError as error:
        raise UnavailableError(f"worker {worker.worker_id} did not answer within {timeout_s:g} s") from error
    except RayError as error:
        logger.info("a worker is gone worker_id=%s error=%s", worker.worker_id, error)
        return None
