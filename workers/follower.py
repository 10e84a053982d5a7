"""One follower of a gang in its process: loads its share, then computes what the leader says until that ends.

Beside `workers.actor.WorkerActor`, the leader's, and like it a plain class that knows nothing of Ray.
"""

import asyncio
import gc
import logging
import os
import threading
from typing import TYPE_CHECKING

from baton.errors import BatonError, InternalError
from workers.parallel.member import enter
from workers.parallel.runner import follow
from workers.spec import WorkerSpec
from workers.starting import take_place

if TYPE_CHECKING:
    from workers.model.contract import Share
    from workers.parallel.gang import Gang

logger = logging.getLogger(__name__)


class Follower:
    """Call `start` once. It ends its process when the gang ends, as wanted or not."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self._gang: Gang | None = None

    async def start(self) -> str:
        """Loads this rank's share. Returns "": nobody but the leader calls here.

        Raises: What the loader raises, which the leader is told too.
        """
        take_place(self.spec)
        share, self._gang = await asyncio.to_thread(enter, self.spec, self._end)
        gc.collect()
        gc.freeze()
        threading.Thread(target=self._follow, args=(share, self._gang), name="follow", daemon=True).start()
        logger.info("rank ready worker_id=%s rank=%d", self.spec.worker_id, self.spec.gang.rank)
        return ""

    async def state(self) -> bytes:
        """Empty: the leader's tells of the whole gang."""
        return b""

    async def drain(self, timeout_s: float) -> bool:
        return True

    async def stop(self) -> None:
        if self._gang is not None:
            self._gang.close()

    def _follow(self, share: "Share", gang: "Gang") -> None:
        try:
            follow(share, gang)
        except BatonError as error:
            self._end(error)
        except BaseException as error:
            logger.critical("a step failed worker_id=%s", self.spec.worker_id, exc_info=error)
            gang.fault(InternalError(f"a step failed: {error}"))
            os._exit(1)
        else:
            logger.info("the gang has ended worker_id=%s rank=%d", self.spec.worker_id, self.spec.gang.rank)
            os._exit(0)

    def _end(self, error: BatonError) -> None:
        logger.critical("the rank ends worker_id=%s error=%s", self.spec.worker_id, error.message)
        os._exit(1)
