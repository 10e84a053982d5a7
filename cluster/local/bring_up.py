"""From nothing to a cluster that answers: local Ray, controller, workers and ingress, side by side where they can be.

Also applies a changed config to a cluster that runs. A first start that fails leaves nothing behind.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from baton.errors import BatonError, ConfigError, UnavailableError
from cluster.config.entries import fleets_of, named, with_each, with_shared
from cluster.config.schema import AUTO, BatonConfig
from cluster.host import ports, state
from cluster.host.signals import uninterrupted
from cluster.host.state import ClusterState
from cluster.ingress.chat_templates import ChatTemplates
from cluster.ingress.environment import serve_environment
from cluster.ingress.origins_environment import origins_variable
from cluster.ingress.tls_environment import tls_variable
from cluster.local import external_ray
from cluster.local import ray_node as local_ray
from cluster.local.deploying import deploy_ingress
from cluster.local.doors_preflight import check_doors, check_doors_of_nodes, door_warnings, file_warnings
from cluster.local.draft_preflight import check_draft
from cluster.local.fleets import Applied, Fleets
from cluster.local.health import wait_for_health
from cluster.local.preflight import as_every_node, check_cores, check_device, check_model, warnings
from cluster.local.roll_out import RollOut
from cluster.models.find import find_draft, find_model
from workers.model.cpu.native import isa
from workers.model.gguf.folder import find_gguf

if TYPE_CHECKING:
    from cluster.fleet.client import ControllerClient
    from cluster.fleet.status import FleetStatus

POLL_S = 0.1
HEALTH_TIMEOUT_S = 30.0
PATIENCE_S = 30.0  # beyond what a worker may take to start and another to drain
MAX_FAILURES = 3  # starts of one worker before `up` gives in

Report = Callable[[str], None]  # what is under way, for a progress line


@dataclass(slots=True, kw_only=True)
class Running:
    """What the user is told at the end."""

    cluster: ClusterState
    served_name: str  # of the first model
    shown: str  # of all models
    chats: bool  # its model has a chat template
    fresh: bool  # started now, not found running
    has_tls: bool = False
    has_keys: bool = False
    timings: dict[str, float] = field(default_factory=dict)  # step -> seconds


def bring_up(config: BatonConfig, report: Report, warn: Report, *, is_live: bool = False) -> Running:
    """Returns when the cluster answers.

    Args:
        is_live: What is reported replaces what was: it may change many times a second.
        warn: Told what will work, but not well.
    Raises:
        ConfigError: The config cannot work on this machine, or cannot be applied to what runs.
        UnavailableError: Something did not come up in time.
    """
    if not local_ray.external_address():
        config = with_each(config, as_every_node)
    with state.lock():
        for entry, fleet in fleets_of(config):
            with named(entry):
                _check_fleet(fleet, report)
        isa()  # a bad BATON_CPU_ISA would show when workers start
        if not local_ray.external_address():
            ports.check_host(config.http.host)
            check_doors(config)
            for warning in (*warnings(config), *file_warnings(config)):
                warn(warning)
        for warning in door_warnings(config):
            warn(warning)
        found = state.read()
        external_ray.check_address(found)
        if found is not None and local_ray.is_running(found):
            return _Start(_with_ports_of(config, found), report, warn, is_live=is_live).change(found)
        if found is not None:
            report("clearing away what the last cluster left")
            local_ray.stop(found)
        return _Start(_with_free_ports(config), report, warn, is_live=is_live).first()


def _check_fleet(config: BatonConfig, report: Report) -> None:
    """Raises: ConfigError: its model cannot be served, or not on this machine where workers are to be here."""
    if config.model != AUTO:
        if find_gguf(Path(config.model).expanduser()) is not None:
            report(f"reading the header of {config.model}")  # seconds, the first time
        model = find_model(config.model)
        check_model(model, config)
        if draft := find_draft(config):
            check_draft(Path(draft), model, config)
    if not local_ray.external_address():
        check_cores(config)
        check_device(config)


def serve_env(config: BatonConfig, folder: str) -> dict[str, str]:
    """Of the processes that come of a connection to Ray.

    Args:
        folder: Of a Ray of our own; empty: it is somebody else's, where HAProxy's files would have to lie on every
            node: Serve's own proxy there.
    """
    haproxy = None if folder else False
    settings = serve_environment(folder, config.http.host, haproxy=haproxy, limits=config.limits)
    return settings | tls_variable(config.tls) | origins_variable(config.http.cors_origins)


class _Start:
    """One run of `up`."""

    def __init__(self, config: BatonConfig, report: Report, warn: Report, *, is_live: bool = False) -> None:
        self._config = config
        self._report = report
        self._warn = warn
        self._is_live = is_live
        self._timings: dict[str, float] = {}

    def first(self) -> Running:
        cluster = local_ray.new_state()
        state.write(cluster)
        begin = time.monotonic()
        try:
            applied = self._all(cluster)
        except BaseException:
            with uninterrupted():
                self._clear()
            raise
        self._timings["in all"] = time.monotonic() - begin
        return self._running(applied, fresh=True)

    def change(self, cluster: ClusterState) -> Running:
        begin = time.monotonic()
        self._connect(cluster, serve_env(self._config, cluster.folder))
        applied = self._fleet_and_ingress()
        self._timings["in all"] = time.monotonic() - begin
        return self._running(applied, fresh=False)

    def _running(self, applied: Applied, *, fresh: bool) -> Running:
        plan = applied.plans[0]
        return Running(
            cluster=_noted(),
            served_name=plan.config.served_name,
            shown=", ".join(dict.fromkeys(row.served_name for row in applied.models)),
            chats=bool(ChatTemplates(Path(plan.model_path)).names),
            fresh=fresh,
            has_tls=plan.config.tls.is_on,
            has_keys=plan.config.auth.is_on,
            timings=self._timings,
        )

    def _all(self, cluster: ClusterState) -> Applied:
        env = serve_env(self._config, cluster.folder)
        local_ray.prepare(cluster, env)
        imports = threading.Thread(target=self._import_ray)  # no daemon: an exit amid its imports would crash
        imports.start()
        if cluster.folder:
            self._report("starting Ray on this machine")
            with self._timed("ray"):
                cluster = local_ray.start(cluster, env)
        imports.join()
        with self._timed("connect"):
            self._connect(cluster, env)
        if not cluster.folder and external_ray.end_leftovers():
            self._report("cleared away what the last cluster left")
        return self._fleet_and_ingress()

    def _connect(self, cluster: ClusterState, env: dict[str, str]) -> None:
        local_ray.connect(cluster, namespace="baton", actors_env=env)

    def _fleet_and_ingress(self) -> Applied:
        from cluster.fleet import nodes, places
        from cluster.fleet.client import ControllerClient

        if not _noted().folder:
            for warning in check_doors_of_nodes(self._config):
                self._warn(warning)
        self._report("starting the controller")
        with self._timed("controller"):
            state.metrics_token_path()  # is there for Prometheus from now on
            controller = ControllerClient.start(state.cluster_secret())
            fleets = Fleets(controller, state.cluster_secret(), self._report)
            applied = fleets.apply(self._config)
        for plan in applied.plans:
            for warning in places.too_few_nodes(plan.config.pools, len(nodes.alive())):
                self._warn(warning)
        for fleet in fleets.controllers():
            if fleet.own_status().rollout is not None:
                self._roll_out(fleet, fleets, applied)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ingress") as pool:
            ingress = pool.submit(self._deploy, applied)
            with self._timed("workers"):
                self._wait_for_workers(controller, ingress)
            self._report("waiting for the ingress")
            ingress.result()
        self._publish()
        with self._timed("health"):
            wants_certificate = bool(self._config.tls.client_ca)
            wait_for_health(f"{_noted().http}/health", HEALTH_TIMEOUT_S, wants_certificate=wants_certificate)
        fleets.wait_until_served([model for model in applied.models if model.entry])
        fleets.end_leaving()
        return applied

    def _roll_out(self, fleet: "ControllerClient", fleets: Fleets, applied: Applied) -> None:
        """Of one model's workers."""
        mine = [row for row in applied.models if fleets.is_home(fleet, row)]

        def deploy() -> None:
            self._deploy(applied)
            fleets.wait_until_served(mine)

        health = self._config.health
        rolling = RollOut(
            fleet=fleet,
            deploy=deploy,
            report=self._report,
            patience_s=health.start_timeout_s + health.drain_timeout_s + PATIENCE_S,
        )
        with self._timed("replacing workers"):
            rolling.follow()

    def _import_ray(self) -> None:
        """Half of it is reading files: done while Ray's processes start."""
        with self._timed("imports (beside ray)"):
            import cluster.fleet.client
            import cluster.ingress.app  # noqa: F401

        for name in ("ray", "ray.serve"):  # Serve sets its logger's level again when it starts; a filter stays
            logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.WARNING)

    def _deploy(self, applied: Applied) -> None:
        with self._timed("ingress (beside workers)"):
            deploy_ingress(self._config, applied.models, avoid=applied.plans[0].drained)

    def _wait_for_workers(self, controller: "ControllerClient", ingress: Future[None]) -> None:
        deadline = time.monotonic() + self._config.health.start_timeout_s
        while True:
            status = controller.status().staying()
            _raise_failure(status)
            if ingress.done():
                ingress.result()
            counts = ", ".join(f"{pool.name} {pool.num_ready}/{pool.num_desired}" for pool in status.pools)
            waits = [pool.waits for pool in status.pools if pool.waits]
            missing = "; ".join([counts, *waits, *status.refused])
            loading = [f"; {worker.loading}" for worker in status.workers if worker.loading] if self._is_live else []
            self._report(f"starting workers: {missing}{''.join(loading)}")
            if waits and status.answers:
                for line in waits:
                    self._warn(f"{line}; answers come without, `baton status` says when it is there")
                return
            if status.ready and self._drafts_settled(status, time.monotonic() > deadline):
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"health.start_timeout_s: workers not ready after {self._config.health.start_timeout_s:g} s "
                    f"({missing}); raise it, or see {_noted().folder}/{local_ray.RAY_FOLDER}/session_latest/logs"
                )
            time.sleep(POLL_S)

    def _drafts_settled(self, status: "FleetStatus", late: bool) -> bool:
        """Whether draft workers are there, or not worth waiting for: answers come without them, only later."""
        missing = [
            worker
            for worker in status.workers
            if not worker.serves and worker.phase in ("waiting", "starting", "failed")
        ]
        without = "answers come without its drafts, `baton status` says when it is back"
        for worker in missing:
            if worker.error_is_final:
                self._warn(f"{worker.worker_id} cannot start: {worker.error}; answers come without its drafts")
                return True
            if worker.error:
                self._warn(f"{worker.worker_id} {worker.failure}; {without}")
                return True
        if late:
            for worker in missing:
                timeout_s = self._config.health.start_timeout_s
                self._warn(f"{worker.worker_id} is not ready after {timeout_s:g} s; {without}")
        return late or all(pool.is_whole for pool in status.pools)

    def _publish(self) -> None:
        host = self._config.http.host
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1" if _noted().folder else external_ray.head_address()
        shown = f"[{host}]" if ":" in host else host
        state.write(
            replace(
                _noted(),
                http=f"http{'s' if self._config.tls.is_on else ''}://{shown}:{self._config.http.port}",
                grpc=f"{shown}:{self._config.grpc.port}",
            )
        )

    def _clear(self) -> None:
        self._report("clearing away")
        import ray

        cluster = state.read()
        if cluster is None:
            return
        if not cluster.folder and ray.is_initialized():
            external_ray.end(0.0)
        local_ray.disconnect()
        local_ray.stop(cluster)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._timings[step] = time.monotonic() - begin


def take_down(drain_timeout_s: float, report: Report, *, wait_s: float = 0.0, starter_pid: int | None = None) -> bool:
    """Drains and ends what `bring_up` started; whether there was anything.

    Args:
        drain_timeout_s: 0: a Ray of our own is ended without a word to its workers.
        wait_s: For another `up` or `down` to end first.
        starter_pid: What another process has started stays.
    """
    if not _may_end(state.read(), starter_pid):
        return False
    with state.lock(wait_s):
        cluster = state.read()
        if cluster is None or not _may_end(cluster, starter_pid):
            return False
        if local_ray.is_running(cluster) and (drain_timeout_s > 0 or not cluster.folder):
            try:
                local_ray.connect(cluster, namespace="baton")
                report("finishing what runs")
                external_ray.end(drain_timeout_s, undeploy=not cluster.folder)
            except BatonError as error:
                report(f"not drained: {error.message}")
        report("ending processes")
        local_ray.disconnect()
        local_ray.stop(cluster)
        return True


def _may_end(cluster: ClusterState | None, starter_pid: int | None) -> bool:
    return starter_pid is None or (cluster is not None and cluster.starter_pid == starter_pid)


def _with_free_ports(config: BatonConfig) -> BatonConfig:
    host = config.http.host
    for key, port in (("http.port", config.http.port), ("grpc.port", config.grpc.port)):
        if port:
            ports.check_port(host, port, key)
    return _with_ports(config, config.http.port or ports.free_port(host), config.grpc.port or ports.free_port(host))


def _with_ports_of(config: BatonConfig, cluster: ClusterState) -> BatonConfig:
    """Where the config says 0, the ports that the running cluster has taken."""
    if not cluster.http or not cluster.grpc:
        return config
    http, grpc = (int(address.rsplit(":", 1)[1]) for address in (cluster.http, cluster.grpc))
    return _with_ports(config, config.http.port or http, config.grpc.port or grpc)


def _with_ports(config: BatonConfig, http: int, grpc: int) -> BatonConfig:
    return with_shared(config, http=replace(config.http, port=http), grpc=replace(config.grpc, port=grpc))


def _raise_failure(status: "FleetStatus") -> None:
    """Of the workers that do not serve: one that failed before and is back may well stay."""
    for worker in status.workers:
        if worker.phase == "ready" or not worker.serves:
            continue
        if worker.error_is_final:
            raise ConfigError(f"{worker.worker_id} cannot start: {worker.error}")
        if worker.num_failures >= MAX_FAILURES:
            raise UnavailableError(f"{worker.worker_id} {worker.failure}; run `baton doctor`")


def _noted() -> ClusterState:
    cluster = state.read()
    assert cluster is not None, "written before anything started"
    return cluster
