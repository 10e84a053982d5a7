"""One worker in its process: pins cores, builds the runner, serves gRPC beside the engine's thread.

A plain async class that knows nothing of Ray: `cluster.fleet.shell` makes it in a Ray actor, `workers.process` and
`workers.profiled` in a process of their own.
"""

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import grpc

from baton.v1 import kv_pb2_grpc, worker_pb2_grpc
from workers.spec import WorkerSpec

if TYPE_CHECKING:
    from workers.engine.engine import Engine
    from workers.kv_transfer.link import Inbox, Outbox
    from workers.model.contract import ModelRunner
    from workers.service import WorkerService

logger = logging.getLogger(__name__)
MAX_MESSAGE_BYTES = 64 << 20
GRPC_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
]
SWITCH_INTERVAL_S = 0.001  # of the interpreter: the loop must not wait 5 ms behind the engine's thread


class WorkerActor:
    """Call `start` once; then it serves until `stop`. It ends its process when its engine or its service fails."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self._engine: Engine | None = None
        self._service: WorkerService | None = None
        self._server: grpc.aio.Server | None = None
        self._thread: threading.Thread | None = None
        self._links: tuple[Outbox, Inbox] | None = None

    async def start(self) -> str:
        """Loads the model and serves. Returns host:port, the port from the OS.

        Raises: ConfigError, of the transport before the model is loaded, and what the loader raises; the worker is of
            no use then.
        """
        pin(self.spec)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        from workers.kv_transfer.grpc_link import check_transport, make_inbox, make_outbox
        from workers.kv_transfer.handshake import AUTO

        if self.spec.kv.transport != AUTO:
            check_transport(self.spec, self.spec.kv.transport)
        runner = await asyncio.to_thread(build_runner, self.spec)
        from workers.engine.engine import Engine
        from workers.service import SecretInterceptor, WorkerService

        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not walk it during steps
        engine = Engine(
            runner=runner, spec=self.spec, emit=lambda report: service.on_step(report), clock=time.monotonic
        )
        service = WorkerService(engine=engine, spec=self.spec, incarnation=self.incarnation, fail=self._end)
        store, fingerprint = runner.store, runner.fingerprint
        outbox = make_outbox(
            runner_store=store,
            spec=self.spec,
            incarnation=self.incarnation,
            fingerprint=fingerprint,
            notify=engine.wake,
        )
        inbox, kv_servicer = make_inbox(
            runner_store=store,
            spec=self.spec,
            incarnation=self.incarnation,
            fingerprint=fingerprint,
            notify=engine.wake,
        )
        engine.connect(outbox, inbox)
        server = grpc.aio.server(interceptors=[SecretInterceptor(self.spec.secret)], options=GRPC_OPTIONS)
        worker_pb2_grpc.add_WorkerServicer_to_server(service, server)
        kv_pb2_grpc.add_KVTransferServicer_to_server(kv_servicer, server)
        port = server.add_insecure_port(f"{self.spec.host}:0")
        await server.start()
        self._engine, self._service, self._server, self._links = engine, service, server, (outbox, inbox)
        self._thread = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        self._thread.start()
        logger.info("worker ready worker_id=%s role=%s port=%d", self.spec.worker_id, self.spec.role, port)
        return f"{self.spec.host}:{port}"

    def _run_engine(self) -> None:
        assert self._engine is not None
        try:
            self._engine.run()
        except BaseException as error:
            self._end(error)  # blocks and sequences may disagree now: better a new worker than a wrong token

    def _end(self, error: BaseException) -> None:
        """Of the process: the controller sees it and starts another."""
        logger.critical("the worker ends worker_id=%s", self.spec.worker_id, exc_info=error)
        os._exit(1)

    async def state(self) -> bytes:
        """A serialized worker_pb2.WorkerState."""
        assert self._service is not None, "start() has not returned"
        return self._service.state().SerializeToString()

    async def pid(self) -> int:
        return os.getpid()

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new and waits for what runs; whether all of it ended in time."""
        assert self._engine is not None, "start() has not returned"
        assert self._service is not None, "start() has not returned"
        self._engine.drain()
        deadline = time.monotonic() + timeout_s
        while not self._service.is_drained and time.monotonic() < deadline:  # noqa: ASYNC110, the engine is a thread
            await asyncio.sleep(0.02)
        return self._service.is_drained

    async def stop(self) -> None:
        """Idempotent. What still runs is cut off."""
        if self._engine is not None:
            self._engine.stop()
        if self._service is not None:
            await self._service.close()
        if self._links is not None:
            for link in self._links:
                await asyncio.to_thread(link.close)
            self._links = None
        if self._server is not None:
            await self._server.stop(grace=0.2)
            self._server = None
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
            self._thread = None


def pin(spec: WorkerSpec) -> None:
    """Keeps every thread of this process, those yet to come too, on the worker's cores."""
    if not spec.cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), spec.cores)
    except OSError as error:  # none of them is this process's to have
        logger.warning("not pinned cores=%s error=%s", spec.cores, error)


def build_runner(spec: WorkerSpec) -> "ModelRunner":
    """The fake runner at once, or torch's, loaded and warmed up: seconds to minutes, by the size of the weights."""
    if spec.fake:
        from workers.model.fake import FakeRunner

        return FakeRunner(spec)
    import torch

    num_threads = spec.num_threads or len(spec.cores) or None
    if num_threads:
        torch.set_num_threads(num_threads)
    from workers.model.runner import TorchRunner

    runner = TorchRunner(spec)
    runner.warm_up()
    return runner
