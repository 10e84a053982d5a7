"""HAProxy that outlives its process: the public ports are held here, in Serve's manager of it, and it is started again.

Serve's own manager looks after HAProxy every 10 s and gives in at the third failure; the ports are HAProxy's, so that
every connection is refused until then. Here they belong to the manager: while no HAProxy runs, connections wait in the
kernel for the next one, which starts at once. Used by way of `on_controller_start`, in Serve's own processes.
"""

import asyncio
import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import ray
from ray.serve._private import controller, haproxy

from baton.errors import InternalError
from cluster.ingress.binding import HOST_VARIABLE
from cluster.ingress.haproxy_answers import answer_rules
from cluster.ingress.haproxy_config import amended, front_rules, refusals, response_for_a_lost_request
from cluster.ingress.haproxy_tls import HAProxyTLS
from cluster.ingress.limits import limits_of_environment
from cluster.ingress.origins_environment import origins_of_environment
from cluster.ingress.tls_environment import tls_of_environment

BACKLOG = 1024  # connections that wait while no HAProxy runs; the kernel's bound is often 4096
ANSWER_POLL_S, ANSWER_WAIT_S = 0.02, 0.5  # Serve's own poll, every 0.5 s, goes on from there
RETRY_S = 1.0
LOST = 503
ROUTES_WAIT_S = 10.0
_OVERRIDDEN = ("_start_and_wait_for_haproxy", "_graceful_reload", "_generate_config_file_internal", "_retire_log_files")

logger = logging.getLogger("ray.serve")


class SteadyHAProxy(haproxy.HAProxyApi):
    """One HAProxy at a time serves; older ones finish what they have."""

    def __init__(self, cfg: Any, *args: Any, **kwargs: Any) -> None:
        self._turn = asyncio.Lock()  # a start and a reload exclude each other
        self._is_stopped = False
        ports = [cfg.frontend_port, *([cfg.grpc_frontend_port] if cfg.grpc_enabled else [])]
        public = os.environ.get(HOST_VARIABLE) or cfg.frontend_host  # Serve is told of loopback alone
        self._listeners = {f"{cfg.frontend_host}:{port}": listening(public, port) for port in ports}
        self._tls_follower: asyncio.Task[None] | None = None
        super().__init__(cfg, *args, **kwargs)
        self._tls = HAProxyTLS(tls_of_environment(), Path(self.config_file_path).parent)

    async def start(self) -> None:
        async with self._turn:
            await self._until_routes_are_known()
            await super().start()
        self._watch = asyncio.create_task(self._keep_running())
        if self._tls.is_on:
            self._tls_follower = asyncio.create_task(self._tls.follow(self.cfg.socket_path))

    async def stop(self) -> None:
        self._is_stopped = True
        if self._tls_follower is not None:
            self._tls_follower.cancel()
        async with self._turn:  # a start that is under way ends first, so that its process is known
            await super().stop()
        for listener in self._listeners.values():
            listener.close()

    async def _keep_running(self) -> None:
        while not self._is_stopped:
            process = self._proc
            assert process is not None, "start has set it, and stop ends this"
            await process.wait()
            async with self._turn:
                if self._proc is process and not self._is_stopped:
                    await self._start_again(process)

    async def _start_again(self, ended: asyncio.subprocess.Process) -> None:
        logger.warning("HAProxy ended, starting it again pid=%s returncode=%s", ended.pid, ended.returncode)
        try:
            self._proc = await self._start_and_wait_for_haproxy()
            self._retire_log_files(ended)
        except (RuntimeError, OSError):
            logger.exception("HAProxy did not start; trying again in %s s", RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def _graceful_reload(self) -> None:
        async with self._turn:
            if self._is_running():
                await super()._graceful_reload()
            else:
                self._proc = await self._start_and_wait_for_haproxy()

    async def _start_and_wait_for_haproxy(self, *arguments: str, **kwargs: Any) -> asyncio.subprocess.Process:
        """As the method that it replaces, but the new process inherits the listening sockets."""
        if not arguments and (left := self._left_behind()):
            arguments = ("-sf", *left)
        process = await self._spawn(*arguments)
        try:
            await self._until_it_answers(process)
            await self._wait_for_hap_availability(process, **kwargs)
        except Exception:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self._retire_log_files(process)
            raise
        return process

    async def _until_routes_are_known(self) -> None:
        """Where a HAProxy serves already: one that has not been told of any replica would answer 404 in its place."""
        for _ in range(int(ROUTES_WAIT_S / ANSWER_POLL_S)):
            if self.cfg.has_received_routes or not self._left_behind():
                return
            await asyncio.sleep(ANSWER_POLL_S)

    async def _spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        self._spawn_seq += 1
        paths = [f"{self.cfg.socket_path}.{self._log_id}.{self._spawn_seq}.{name}.log" for name in ("stdout", "stderr")]
        with ExitStack() as logs:
            out, err = (logs.enter_context(_log(path)) for path in paths)
            process = await asyncio.create_subprocess_exec(
                haproxy.get_haproxy_binary(),
                *("-db", "-dR", "-f", self.config_file_path),
                *arguments,
                stdout=out,
                stderr=err,
                pass_fds=list(self._descriptors().values()),
            )
        process._stdout_path, process._stderr_path = paths  # type: ignore[attr-defined]  # Serve reads them
        return process

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        for _ in range(int(ANSWER_WAIT_S / ANSWER_POLL_S)):
            if process.returncode is not None or await self._get_running_pid() == process.pid:
                return
            await asyncio.sleep(ANSWER_POLL_S)

    def _left_behind(self) -> list[str]:
        """HAProxys of this node whose manager was killed: they still accept, by what that manager knew."""
        return [entry for entry in os.listdir("/proc") if entry.isdigit() and self._is_our_haproxy(int(entry))]

    def _descriptors(self) -> dict[str, int]:
        return {address: listener.fileno() for address, listener in self._listeners.items()}

    def _generate_config_file_internal(self) -> None:
        super()._generate_config_file_internal()
        path = Path(self.config_file_path)
        files = {status: str(self._error_file(status)) for status in refusals()}
        rules = [*answer_rules(origins_of_environment()), *front_rules(limits_of_environment(), files)]
        config = amended(path.read_text(encoding="utf-8"), self._descriptors(), rules)
        path.write_text(self._tls.amended(config), encoding="utf-8")

    def _initialize_directories_and_error_files(self) -> None:
        """Serve would call a lost replica a 500 of the application's, and HAProxy's own words are HTML."""
        super()._initialize_directories_and_error_files()
        for status, response in (refusals() | {LOST: response_for_a_lost_request()}).items():
            self._error_file(status).write_text(response, encoding="ascii", newline="")
        self.cfg.error_file_path = str(self._error_file(LOST))

    def _error_file(self, status: int) -> Path:
        return Path(self.config_file_path).with_name(f"{status}.http")


def _log(path: str) -> BinaryIO:
    return Path(path).open("wb")


def listening(host: str, port: int) -> socket.socket:
    """SO_REUSEPORT lets a new manager listen while a HAProxy of the last one finishes its requests."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("" if host in ("*", "0.0.0.0") else host, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


# Serve's module has the remote class alone; below it is the plain one.
_Manager: Any = haproxy.HAProxyManager.__ray_metadata__.modified_class.__ray_actor_class__  # type: ignore[attr-defined]


class SteadyHAProxyManager(_Manager):  # type: ignore[misc]
    """Serve's manager, of a SteadyHAProxy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        vars(haproxy)["HAProxyApi"] = SteadyHAProxy  # where the method below looks it up
        super().__init__(*args, **kwargs)


def on_controller_start() -> None:
    """Serve calls this (RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH) before it starts any proxy.

    Raises: InternalError: This version of Ray manages HAProxy in another way.
    """
    missing = [name for name in _OVERRIDDEN if not hasattr(haproxy.HAProxyApi, name)]
    if missing or not hasattr(controller, "HAProxyManager"):
        raise InternalError(f"this version of Ray Serve manages HAProxy in an unknown way ({missing}); use ray 2.60")
    controller.HAProxyManager = ray.remote(num_cpus=0)(SteadyHAProxyManager)
