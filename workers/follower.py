"""One follower of a gang in its process: loads its share, then computes what the leader says until that ends.

Beside `workers.actor.WorkerActor`, the leader's, and like it a plain class that knows nothing of Ray.
"""

import asyncio
import gc
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from baton.errors import BatonError, InternalError
from baton.v1 import kv_pb2_grpc
from workers.ending import Ending
from workers.model.places import Degrees
from workers.model.start_report import Loaded, StartReport, watched
from workers.parallel.gang import LEADER
from workers.parallel.member import enter
from workers.parallel.runner import follow
from workers.server import make_server
from workers.spec import Role, WorkerSpec
from workers.starting import take_place

if TYPE_CHECKING:
    from workers.kv_transfer.gang_links import FollowerLinks
    from workers.kv_transfer.rank_agent import RankAgent
    from workers.model.contract import RankRunner
    from workers.parallel.gang import Gang

logger = logging.getLogger(__name__)


class Follower:
    """Call `start` once. It ends its process when the gang ends, as wanted or not."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self._gang: Gang | None = None
        self._server: grpc.aio.Server | None = None  # held: gRPC stops one that is let go
        self._ending = Ending()
        self._report = StartReport()

    async def start(self) -> str:
        """Loads this rank's share. Returns "": nobody but the leader calls here.

        Raises: What the loader raises, which the leader is told too.
        """
        take_place(self.spec)
        with watched(self._report):
            share, gang = await asyncio.to_thread(enter, self.spec, self._end)
        self._gang = gang
        gc.collect()
        gc.freeze()
        is_draft = self.spec.role is Role.DRAFT  # whose KV goes nowhere
        agent = None if is_draft else (await self._serve_links(share, gang)).agent
        args = (share, gang, agent)
        threading.Thread(target=self._follow, args=args, name="follow", daemon=True).start()
        logger.info("rank ready worker_id=%s rank=%d", self.spec.worker_id, self.spec.gang.rank)
        return ""

    async def _serve_links(self, share: "RankRunner", gang: "Gang") -> "FollowerLinks":
        """Takes links of this rank's lanes, and tells the leader where."""
        from workers.kv_transfer.gang_links import FollowerLinks, Life

        degrees = Degrees(self.spec.gang.tensor_parallel, self.spec.gang.sequence_parallel)
        life = Life(spec=self.spec, incarnation=self.incarnation, fingerprint=share.fingerprint)
        links = FollowerLinks(life, share.store, gang.rank, degrees, tell=partial(gang.tell, LEADER))
        self._server = make_server(self.spec)
        kv_pb2_grpc.add_KVTransferServicer_to_server(links.servicer, self._server)
        port = self._server.add_insecure_port(f"{self.spec.host}:0")
        await self._server.start()
        gang.on_message(links.on_message)
        links.agent.introduce(f"{self.spec.host}:{port}")
        return links

    async def loading(self) -> Loaded:
        """How far `start` is with this rank's weights."""
        return self._report.loaded()

    async def state(self) -> bytes:
        """Empty: the leader's tells of the whole gang."""
        return b""

    async def drain(self, timeout_s: float) -> bool:
        return True

    async def ended(self) -> None:
        """As the leader's."""
        await self._ending.wait()

    async def stop(self) -> None:
        if self._gang is not None:
            self._gang.close()

    def _follow(self, share: "RankRunner", gang: "Gang", agent: "RankAgent | None") -> None:
        try:
            follow(share, gang, agent)
        except BatonError as error:
            self._end(error)
        except BaseException as error:
            logger.critical("a step failed worker_id=%s", self.spec.worker_id, exc_info=error)
            fault = InternalError(f"a step failed: {error}")
            gang.fault(fault)
            self._ending.end(fault)
        else:
            logger.info("the gang has ended worker_id=%s rank=%d", self.spec.worker_id, self.spec.gang.rank)
            os._exit(0)

    def _end(self, error: BatonError) -> None:
        logger.critical("the rank ends worker_id=%s error=%s", self.spec.worker_id, error.message)
        self._ending.end(error)
