"""The ingress as a Ray Serve application: HTTP and gRPC on the two public ports.

Serve owns the replicas and their proxy; everything that a request needs is in `cluster.ingress.service`. Ray and Serve
are imported when called, because Serve reads its environment (`serve_environment`) at its first import.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from grpc_health.v1 import health_pb2

from baton.errors import ConfigError
from baton.v1 import inference_pb2
from cluster.config.entries import named
from cluster.config.schema import (
    AuthConfig,
    BatonConfig,
    LimitsConfig,
    LoggingConfig,
    MetricsConfig,
    SLOConfig,
    StructuredConfig,
    TracingConfig,
)
from cluster.contracts.served_model import ServedModel
from cluster.contracts.slo import slo_of
from cluster.doors.accounts import KeyMetrics
from cluster.doors.guard import Guard
from cluster.doors.share import Draw
from cluster.host.ports import check_port
from cluster.ingress.binding import bind_servers_to, host_of_servers, limit_servers
from cluster.ingress.cluster_api.own_view import max_viewers
from cluster.ingress.cluster_api.picture import ReplicaShare
from cluster.ingress.cluster_api.shown_fleets import ShownFleets
from cluster.ingress.cluster_api.view import ClusterView
from cluster.ingress.controller_link import (
    AdapterClient,
    ControllerLink,
    DemandClient,
    FleetClient,
    LocalLedger,
    ModelTableClient,
    SharedLedger,
    WorkerTableClient,
)
from cluster.ingress.deployed import deployed, note_deployed, told_of
from cluster.ingress.environment import ENABLE_HAPROXY, serve_environment
from cluster.ingress.grpc_api import GRPCRoutes
from cluster.ingress.http_api import build_app
from cluster.ingress.metrics import Families, Metrics
from cluster.ingress.model_follower import ModelFollower
from cluster.ingress.model_host import Controllers, ModelHost, check_files
from cluster.ingress.places import actor_options, proxy_location, resources_of, surge_percent
from cluster.ingress.services import Services
from cluster.ingress.stopping import when_it_stops
from cluster.ingress.structured.compiler import GrammarCompiler
from cluster.ingress.tracing.asking import Question, answer
from cluster.ingress.tracing.observing import Observing
from cluster.router.workers import WorkerView
from workers.telemetry.token import metrics_token

if TYPE_CHECKING:
    from ray.serve import Deployment

__all__ = ["APP_NAME", "IngressReplica", "IngressSpec", "deploy", "serve_environment", "undeploy"]

APP_NAME = "baton"
DEPLOYMENT_NAME = "ingress"
# Admission is the dispatcher's (429 with a reason), so Serve's own bound is out of reach.
MAX_ONGOING_REQUESTS = 1_000_000
CLOSE_S = 10.0  # after the drain of a replica, until Serve kills it: it tells those who still wait, and closes
DRAIN_LOOK_S = 0.2
_GATHER_TIMEOUT_S = 2.0
_GRPC_SERVICERS = [
    "baton.v1.inference_pb2_grpc.add_InferenceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSpec:
    """What a replica is told when it starts."""

    models: tuple[ServedModel, ...]  # while the controller cannot be asked which there are
    secret: str = field(repr=False)
    namespace: str
    controller_name: str  # of the first, which keeps the table of models
    host: str
    num_replicas: int
    drain_timeout_s: float
    auth: AuthConfig
    limits: LimitsConfig
    cors_origins: tuple[str, ...]
    structured: StructuredConfig
    tracing: TracingConfig
    logging: LoggingConfig
    slo: SLOConfig
    metrics: MetricsConfig


class IngressReplica:
    """One replica. Method names of the gRPC service are those of its proto: Serve looks them up by name."""

    async def __init__(self, spec: IngressSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        bind_servers_to(spec.host)
        limit_servers(spec.limits, spec.cors_origins)
        self._observing = Observing(spec.tracing, spec.logging, _replica())
        ingress_id = uuid.uuid4().hex
        link = ControllerLink(spec.namespace, spec.controller_name)
        self._limits = spec.limits
        self._cors_origins = spec.cors_origins
        self._metrics_token = metrics_token(spec.secret)
        self._gathered: dict[str, Families] = {}  # by replica, the last time that all of them answered
        self._grammars = GrammarCompiler(spec.structured)
        metrics = Metrics(
            self._states,
            self._gather_metrics if spec.num_replicas > 1 else None,
            counters=lambda: self._services.counters(),
            slo=slo_of(spec.slo),
            vllm_names=spec.metrics.vllm_names,
        )
        self._observing.start(metrics.registry)
        self._services = Services(
            metrics=metrics,
            ring=self._observing.ring,
            visits=self._observing.visits,
            ask_replicas=self._ask_calls if spec.num_replicas > 1 else None,
        )
        self._models = ModelFollower(
            services=self._services,
            host=ModelHost(
                ingress_id=ingress_id,
                secret=spec.secret,
                controllers=_controllers(spec, ingress_id),
                metrics=metrics,
                grammars=self._grammars,
                ring=self._observing.ring,
            ),
            fetch=ModelTableClient(link, ingress_id),
        )
        if spec.auth.is_on:
            draw = SharedLedger(link, spec.num_replicas) if spec.num_replicas > 1 else LocalLedger()
            self._services.guard = _guard(spec, draw, ingress_id, self._services)
            self._services.guard.start()
        self._grpc = GRPCRoutes(self._services, raises=os.environ.get(ENABLE_HAPROXY) != "1")
        await self._models.start(spec.models)
        self._view = self._cluster_view(spec)
        self._view.start()
        when_it_stops(partial(self._leave, spec.drain_timeout_s))

    def _cluster_view(self, spec: IngressSpec) -> ClusterView:
        def ask(controller: str) -> FleetClient:
            link = ControllerLink(spec.namespace, controller or spec.controller_name)
            return FleetClient(link, has_events=controller in ("", spec.controller_name))

        view = ClusterView(
            ShownFleets(self._services, ask),
            slo_of(spec.slo),
            gather=self._gather_shares if spec.num_replicas > 1 else None,
            max_viewers=max_viewers(spec.limits),
        )
        self._services.on_finished.append(view.window.tell)
        return view

    def _leave(self, within_s: float) -> None:
        """Another takes its place."""
        self._models.leave(within_s)
        self._view.leave()

    def _states(self) -> Sequence[WorkerView]:
        return list(self._services.states())

    def check_health(self) -> None:
        """Serve asks now and then, and replaces a replica for which this raises."""
        self._models.check()
        if self._services.guard is not None:
            self._services.guard.check()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(
            self._services,
            self._limits,
            cors_origins=self._cors_origins,
            metrics_token=self._metrics_token,
            view=self._view,
        )

    def Generate(
        self, request: inference_pb2.GenerateRequest, grpc_context: Any
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        return self._grpc.generate(request, grpc_context)

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, grpc_context: Any
    ) -> inference_pb2.TokenizeResponse:
        return await self._grpc.tokenize(request, grpc_context)

    async def Detokenize(
        self, request: inference_pb2.DetokenizeRequest, grpc_context: Any
    ) -> inference_pb2.DetokenizeResponse:
        return await self._grpc.detokenize(request, grpc_context)

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, grpc_context: Any
    ) -> inference_pb2.ListModelsResponse:
        return await self._grpc.list_models(grpc_context)

    async def Check(self, request: health_pb2.HealthCheckRequest, grpc_context: Any) -> health_pb2.HealthCheckResponse:
        return await self._grpc.check(request, grpc_context)

    async def List(self, request: health_pb2.HealthListRequest) -> health_pb2.HealthListResponse:
        return await self._grpc.list()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        async for response in self._grpc.watch(request):
            yield response

    async def metrics(self) -> tuple[str, Families]:
        """This replica's name, and what it counted: what another replica asks for."""
        return _replica(), self._services.metrics.families()

    async def calls(self, question: Question) -> tuple[str, list[dict[str, Any]]]:
        """This replica's name, and what it remembers of calls: what another replica asks for."""
        return _replica(), answer(self._services.ring, question, _replica())

    async def _gather_metrics(self) -> dict[str, Families]:
        """Of every replica that can tell; while one of them does not answer, what the others told last."""
        own, others = await self.metrics(), await _ask_replicas("metrics")
        if not others:
            return {**self._gathered, **dict([own])}
        self._gathered = dict([own, *others])
        return self._gathered

    async def _ask_calls(self, question: Question) -> list[list[dict[str, Any]]]:
        found = dict([await self.calls(question)])
        if not (question.request_id and found[_replica()]):
            found |= dict(await _ask_replicas("calls", question))
        return list(found.values())

    async def cluster_share(self) -> tuple[str, ReplicaShare]:
        """This replica's name, and its part of what /cluster shows."""
        return _replica(), self._view.share()

    async def _gather_shares(self) -> list[ReplicaShare]:
        """Of the other replicas; none while one of them does not answer."""
        return [share for name, share in await _ask_replicas("cluster_share") if name != _replica()]

    async def __del__(self) -> None:
        """Serve awaits this when it stops the replica."""
        await self._view.close()
        if self._services.guard is not None:
            await self._services.guard.close()
        await self._models.close()
        self._grammars.close()
        await asyncio.to_thread(self._observing.close)


def _replica() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


async def _ask_replicas(method: str, *arguments: Any) -> list[Any]:
    """Answers of every replica that can tell; of none while one of them does not answer."""
    from ray import serve

    call = serve.get_deployment_handle(DEPLOYMENT_NAME, APP_NAME).broadcast(method, *arguments)
    try:
        answers = await call.results_async(timeout_s=_GATHER_TIMEOUT_S, return_exceptions=True)
    except TimeoutError:
        logger.warning("another replica did not answer in time asked=%s timeout_s=%s", method, _GATHER_TIMEOUT_S)
        return []
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def _controllers(spec: IngressSpec, ingress_id: str) -> Controllers:
    def workers(name: str, model: str) -> WorkerTableClient:
        return WorkerTableClient(ControllerLink(spec.namespace, name), ingress_id, model)

    def demand(name: str) -> DemandClient:
        return DemandClient(ControllerLink(spec.namespace, name))

    def adapters(name: str) -> AdapterClient:
        return AdapterClient(ControllerLink(spec.namespace, name))

    return Controllers(workers=workers, adapters=adapters, demand=demand)


def _guard(spec: IngressSpec, draw: Draw, ingress_id: str, services: Services) -> Guard:
    return Guard(
        spec.auth,
        model=", ".join(dict.fromkeys(model.served_name for model in spec.models)),
        draw=draw,
        replica=ingress_id,
        num_replicas=spec.num_replicas,
        metrics=KeyMetrics(services.metrics.registry),
        adapters=lambda: services.names,
    )


def deploy(
    config: BatonConfig,
    *,
    models: Sequence[ServedModel],
    secret: str,
    namespace: str,
    controller_name: str,
    avoid: Collection[str] = (),
) -> bool:
    """Starts Serve on the connected Ray cluster, deploys the ingress and returns once it answers.

    A running ingress that is told something else gets new replicas beside the old ones, which end when what they write
    is done, in `http.drain_timeout_s` at most; one that is told the same is left alone.

    Args:
        models: Followed while it runs: others are no reason for new replicas.
        avoid: Ids of nodes where no replica is to be.
    Returns: whether anything was deployed.
    Raises: ConfigError: a port is taken, a file of the model cannot be read, or a replica could not start.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.config import HTTPOptions, gRPCOptions
    from ray.serve.schema import ApplicationStatus

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # progress is the caller's to show
    for row in models:
        if Path(row.model_path).is_dir():
            with named(row.entry):
                check_files(row)  # a replica's error would reach nobody: Serve says no more than that it failed
    status = serve.status()
    _check_applications(list(status.applications))
    is_running = bool(status.proxies)
    if not is_running:
        check_ports(config)
    location = proxy_location(config.http.host)
    spec = _spec_of(config, models, secret=secret, namespace=namespace, controller_name=controller_name)
    running = status.applications.get(APP_NAME)
    told = told_of(replace(spec, models=()), avoid)
    if running is not None and running.status == ApplicationStatus.RUNNING and deployed(namespace) == told:
        return False
    deployment = _deployment_of(config, avoid)
    try:
        if not is_running:
            serve.start(
                proxy_location=location,
                http_options=HTTPOptions(host=host_of_servers(config.http.host), port=config.http.port),
                grpc_options=gRPCOptions(port=config.grpc.port, grpc_servicer_functions=_GRPC_SERVICERS),
            )
        note_deployed(namespace, "")
        serve.run(deployment.bind(spec), name=APP_NAME, route_prefix="/")
        note_deployed(namespace, told)
        return True
    except (RayError, RuntimeError, TimeoutError) as error:
        raise ConfigError(f"the ingress did not start: {error}; see `ray logs` for its replicas and proxies") from error


def _spec_of(
    config: BatonConfig, models: Sequence[ServedModel], *, secret: str, namespace: str, controller_name: str
) -> IngressSpec:
    return IngressSpec(
        models=tuple(models),
        secret=secret,
        namespace=namespace,
        controller_name=controller_name,
        host=config.http.host,
        num_replicas=config.http.replicas,
        drain_timeout_s=config.http.drain_timeout_s,
        auth=config.auth,
        limits=config.limits,
        cors_origins=config.http.cors_origins,
        structured=config.structured,
        tracing=config.tracing,
        logging=config.logging,
        slo=config.slo,
        metrics=config.metrics,
    )


def _deployment_of(config: BatonConfig, avoid: Collection[str]) -> "Deployment":
    from ray import serve

    return serve.deployment(
        name=DEPLOYMENT_NAME,
        num_replicas=config.http.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options=actor_options(resources_of(config), avoid),
        max_surge_percent=surge_percent(config),
        graceful_shutdown_timeout_s=config.http.drain_timeout_s + CLOSE_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        health_check_period_s=1,  # a dead one is found then; a new one takes 5 s more
        health_check_timeout_s=3,
    )(serve.ingress()(IngressReplica))


def undeploy() -> None:
    """Stops Serve: replicas, proxies and its controller; the ingress alone where other applications run on it."""
    from ray import serve

    if set(serve.status().applications) - {APP_NAME}:
        serve.delete(APP_NAME)
    else:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _check_applications(running: Sequence[str]) -> None:
    """Raises: ConfigError: Serve runs, and not for Baton: its proxies have one host and one pair of ports for all."""
    if running and APP_NAME not in running:
        raise ConfigError(
            f"RAY_ADDRESS: Ray Serve runs on that cluster already, for {', '.join(running)}, and its host and ports "
            "cannot be changed; end it with `serve shutdown`, or give another Ray cluster"
        )


def check_ports(config: BatonConfig) -> None:
    """Raises: ConfigError: something on this machine holds one of the two public ports."""
    check_port(config.http.host, config.http.port, "http.port")
    check_port(config.http.host, config.grpc.port, "grpc.port")
