"""Sees that every worker that takes requests has the limits that hold now, those that have just started too."""

import logging
from collections.abc import Iterable

from baton.errors import BatonError
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase
from cluster.fleet.worker_call import Call, call_worker
from workers.spec import SERVING_ROLES

TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class Tuner:
    """Args:
    call: Of a worker's method; None: over Ray.
    """

    def __init__(self, call: Call | None = None) -> None:
        self._call = call or call_worker
        self._told: dict[str, Tuning] = {}  # by incarnation

    async def tune(self, workers: Iterable[WorkerRecord], tuning: Tuning) -> None:
        """Those that are ready; who does not take it is asked again with the next call."""
        serving = [one for one in workers if one.role in SERVING_ROLES]
        live = {one.incarnation for one in serving}
        self._told = {name: told for name, told in self._told.items() if name in live}
        for worker in serving:
            if worker.phase is WorkerPhase.READY and self._told.get(worker.incarnation, UNTUNED) != tuning:
                await self._tell(worker, tuning)

    async def _tell(self, worker: WorkerRecord, tuning: Tuning) -> None:
        try:
            await self._call(worker, "tune", tuning, timeout_s=TIMEOUT_S)
        except BatonError as error:
            logger.warning("limits were not taken worker_id=%s error=%s", worker.worker_id, error.message)
        else:
            self._told[worker.incarnation] = tuning
