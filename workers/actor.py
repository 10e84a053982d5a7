"""One worker in its process: pins cores, builds the runner, serves gRPC beside the engine's thread.

A plain async class that knows nothing of Ray: `cluster.fleet.shell` makes it in a Ray actor, `workers.process` and
`workers.profiled` in a process of their own.
"""

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from baton.errors import BatonError, InvalidRequestError
from baton.v1 import kv_pb2_grpc, worker_pb2_grpc
from workers.adapters.adapter import AdapterSpec
from workers.ending import Ending
from workers.model.places import Degrees
from workers.model.start_report import Loaded, StartReport, watched
from workers.spec import Role, WorkerSpec
from workers.starting import build_runner, take_place

if TYPE_CHECKING:
    from workers.engine.adapter_commands import AdapterCommands
    from workers.engine.engine import Engine
    from workers.grammar.book import GrammarBook
    from workers.kv_transfer.gang_links import LeaderLinks
    from workers.model.contract import ModelRunner
    from workers.parallel.gang import Gang
    from workers.parallel.lobby import Lobby
    from workers.parallel.runner import GangRunner
    from workers.role_change import RoleChanges
    from workers.role_rules import RoleChanged
    from workers.service import WorkerService
    from workers.telemetry.page import MetricsPage

logger = logging.getLogger(__name__)
FAULT_TIMEOUT_S = 1.0
LINGER_S = 0.3  # idle after a drain: what was sent before its sender knew is refused, and what was handed over goes on
ADDRESSES_TIMEOUT_S = 20.0  # for the other ranks' servers: they have loaded when this is waited for


class Driving(Protocol):
    """A worker's engine, as its process sees it."""

    def run(self) -> None:
        """On a thread of its own, until `stop`."""
        ...

    def drain(self) -> None: ...

    def stop(self) -> None: ...


class WorkerActor:
    """Call `start` once; then it serves until `stop`. It ends its process when its engine or its service fails."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self._engine: Driving | None = None
        self._adapters: AdapterCommands | None = None
        self._tune: Callable[[int, int], None] | None = None
        self._roles: RoleChanges | None = None
        self._service: WorkerService | None = None
        self._server: grpc.aio.Server | None = None
        self._metrics: MetricsPage | None = None
        self._thread: threading.Thread | None = None
        self._links: LeaderLinks | None = None
        self._grammars: GrammarBook | None = None
        self._lobby: Lobby | None = None
        self._gang: Gang | None = None
        self._gang_runner: GangRunner | None = None
        self._fault: asyncio.Future[None] | None = None  # of the gang, while it starts
        self._ending = Ending()
        self._report = StartReport()

    async def start(self) -> str:
        """Loads the model and serves. Returns host:port, the port from the OS.

        Raises: ConfigError, of the transport before the model is loaded, and what the loader raises; the worker is of
            no use then.
        """
        take_place(self.spec)
        from workers.kv_transfer.grpc_link import check_transport
        from workers.kv_transfer.handshake import AUTO

        if self.spec.kv.transport != AUTO:
            check_transport(self.spec, self.spec.kv.transport)
        with watched(self._report):
            runner = await (self._lead() if self.spec.gang.size > 1 else asyncio.to_thread(build_runner, self.spec))
        from workers.server import make_server

        server = make_server(self.spec)
        self._engine, self._service = await self._serve(runner, server)
        self._metrics = self._serve_metrics(self._service)
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not walk it during steps
        port = server.add_insecure_port(f"{self.spec.host}:0")
        await server.start()
        self._server = server
        if self._links is not None and self.spec.gang.tensor_parallel > 1:
            others = await asyncio.to_thread(self._links.wait_for_addresses, ADDRESSES_TIMEOUT_S)
            self._service.say_ranks([f"{self.spec.host}:{port}", *others])
        self._thread = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        self._thread.start()
        if self._grammars is not None:
            self._grammars.begin()
        logger.info("worker ready worker_id=%s role=%s port=%d", self.spec.worker_id, self.spec.role, port)
        return f"{self.spec.host}:{port}"

    def _serve_metrics(self, service: "WorkerService") -> "MetricsPage":
        from workers.telemetry.page import MetricsPage
        from workers.telemetry.token import metrics_token

        token = None if self.spec.public_metrics else metrics_token(self.spec.secret)
        page = MetricsPage(host=self.spec.host, token=token, state=service.state)
        service.say_metrics(page.address)
        return page

    async def _serve(self, runner: "ModelRunner", server: grpc.aio.Server) -> "tuple[Driving, WorkerService]":
        """The engine, not running yet, and what this worker's server answers."""
        from workers.engine.engine import Engine
        from workers.grammar.book import grammar_book
        from workers.role_change import RoleChanges
        from workers.service import WorkerService
        from workers.speculative.choose import choose_speculation

        speculation = await asyncio.to_thread(choose_speculation, self.spec, runner)  # may load a draft model
        grammars = self._grammars = grammar_book(Path(self.spec.model), runner, device=self.spec.device)
        engine = Engine(
            runner=runner,
            spec=self.spec,
            emit=lambda report: service.on_step(report),
            clock=time.monotonic,
            speculation=speculation,
            grammars=grammars,
        )
        self._adapters, self._tune = engine.adapters, engine.tune
        service = WorkerService(engine=engine, spec=self.spec, incarnation=self.incarnation, fail=self._end)
        self._roles = RoleChanges(
            spec=self.spec, runner=runner, engine=engine, speculation=speculation, told=lambda: service.role
        )
        links = self._links = self._make_links(runner, engine)
        engine.connect(links.outbox, links.inbox)
        worker_pb2_grpc.add_WorkerServicer_to_server(service, server)
        kv_pb2_grpc.add_KVTransferServicer_to_server(links.servicer, server)
        return engine, service

    def _make_links(self, runner: "ModelRunner", engine: "Engine") -> "LeaderLinks":
        """And joins them with those of the other ranks."""
        from workers.kv_transfer.gang_links import LeaderLinks, Life

        life = Life(spec=self.spec, incarnation=self.incarnation, fingerprint=runner.fingerprint)
        if self._gang is None or self._gang_runner is None:
            return LeaderLinks(life, runner.store, notify=engine.wake, fail=self._end)
        gang, gang_runner = self._gang, self._gang_runner
        links = LeaderLinks(
            life,
            runner.store,
            notify=engine.wake,
            fail=self._end,
            degrees=Degrees(self.spec.gang.tensor_parallel, self.spec.gang.sequence_parallel),
            tell=gang.tell,
            num_steps=lambda: gang_runner.num_steps,
        )
        gang.on_message(links.on_message)
        gang_runner.notes = links.outbox
        return links

    def lobby(self) -> str:
        """Where the other ranks of this worker's gang come to: host:port, before `start` or while it runs.

        Raises: ConfigError: this machine's torch cannot join ranks.
        """
        from workers.parallel.member import open_lobby

        if self._lobby is None:
            self._lobby = open_lobby(self.spec)
        return self._lobby.address

    async def _lead(self) -> "ModelRunner":
        """The runner of a gang, once all ranks are there and have loaded. Raises: what any of them raises."""
        from workers.parallel.member import lead

        self.lobby()
        assert self._lobby is not None
        loop = asyncio.get_running_loop()
        self._fault = loop.create_future()
        loading = asyncio.ensure_future(
            asyncio.to_thread(lead, self.spec, self._lobby, lambda error: self._gang_failed(error, loop))
        )
        either: list[asyncio.Future[Any]] = [loading, self._fault]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not isinstance(loading.exception(), BatonError | None):
            await asyncio.wait({self._fault}, timeout=FAULT_TIMEOUT_S)  # a rank that is gone breaks a collective first
        if self._fault.done():
            self._fault.result()
        self._gang_runner, self._gang = await loading
        return self._gang_runner

    def _gang_failed(self, error: BatonError, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread."""
        if self._thread is not None:
            self._end(error)
        loop.call_soon_threadsafe(self._fail_start, error)

    def _fail_start(self, error: BatonError) -> None:
        assert self._fault is not None
        if not self._fault.done():
            self._fault.set_exception(error)

    def _run_engine(self) -> None:
        assert self._engine is not None
        try:
            self._engine.run()
        except BaseException as error:
            self._end(error)  # blocks and sequences may disagree now: better a new worker than a wrong token

    def _end(self, error: BaseException) -> None:
        """Of the process: the controller sees it and starts another."""
        logger.critical("the worker ends worker_id=%s", self.spec.worker_id, exc_info=error)
        self._ending.end(error)

    async def ended(self) -> None:
        """Never returns. Raises: UnavailableError: why the process is about to end, if it ends of its own accord."""
        await self._ending.wait()

    async def loading(self) -> Loaded:
        """How far `start` is with the weights."""
        return self._report.loaded()

    async def state(self) -> bytes:
        """A serialized worker_pb2.WorkerState."""
        assert self._service is not None, "start() has not returned"
        return self._service.state().SerializeToString()

    async def load_adapter(self, adapter: AdapterSpec) -> None:
        """Raises: as `AdapterCommands.load`."""
        await asyncio.wrap_future(self.adapters.load(adapter))

    async def retire_adapter(self, name: str) -> None:
        await asyncio.wrap_future(self.adapters.retire(name))

    async def num_adapter_uses(self, name: str) -> int:
        return await asyncio.wrap_future(self.adapters.num_uses(name))

    async def remove_adapter(self, name: str) -> bool:
        return await asyncio.wrap_future(self.adapters.remove(name))

    async def tune(self, max_batched_tokens: int | None, max_draft_tokens: int | None) -> None:
        """Of one that takes requests; None: as in the spec."""
        assert self._tune is not None, "start() has not returned, or this worker takes no requests"
        self._tune(
            max_batched_tokens or self.spec.engine.max_batched_tokens,
            max_draft_tokens or self.spec.speculation.max_tokens,
        )

    @property
    def adapters(self) -> "AdapterCommands":
        assert self._adapters is not None, "start() has not returned, or this worker takes no requests"
        return self._adapters

    async def set_role(self, role: Role, timeout_s: float) -> "RoleChanged":
        """Raises: as `RoleChanges.change`."""
        if self._roles is None:
            raise InvalidRequestError(f"worker: {self.spec.worker_id} takes no requests, or has not started", "worker")
        return await self._roles.change(role, timeout_s)

    async def pid(self) -> int:
        return os.getpid()

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new and waits for what runs; whether all of it ended in time."""
        assert self._engine is not None, "start() has not returned"
        assert self._service is not None, "start() has not returned"
        self._engine.drain()
        begin_s = busy_s = time.monotonic()
        while (now_s := time.monotonic()) < begin_s + timeout_s and now_s < busy_s + LINGER_S:
            if not self._service.is_drained:
                busy_s = now_s
            await asyncio.sleep(0.02)  # the engine is a thread
        return self._service.is_drained

    async def stop(self) -> None:
        """Idempotent. What still runs is cut off."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._engine is not None:
            self._engine.stop()
        if self._service is not None:
            await self._service.close()
        if self._links is not None:
            await asyncio.to_thread(self._links.close)
            self._links = None
        if self._grammars is not None:
            self._grammars.close()
        if self._server is not None:
            await self._server.stop(grace=0.2)
            self._server = None
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
            self._thread = None
        if self._gang is not None:
            self._gang.close()
