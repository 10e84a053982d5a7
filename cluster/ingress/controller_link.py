"""What an ingress replica asks of the controller: the table of workers, and its share of keys' limits."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from baton.errors import BatonError, UnavailableError
from cluster.config.api_key import KeyLimits
from cluster.contracts.demand import DemandAnswer, DemandReport
from cluster.contracts.served_model import ModelTable
from cluster.doors.budget import Ask, Grant, Ledger
from cluster.ingress.cluster_api.fleet_news import FleetNews, fleet_news
from cluster.router.workers import WorkerEntry

_FETCH_TIMEOUT_S = 5.0
_DRAW_TIMEOUT_S = 2.0
_LOAD_TIMEOUT_S = 180.0
_RETRY_S = 5.0  # after the controller did not answer

logger = logging.getLogger(__name__)


class ControllerLink:
    """Ray is imported when called."""

    def __init__(self, namespace: str, controller_name: str) -> None:
        self._namespace = namespace
        self._name = controller_name
        self._controller: Any = None

    async def ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        """Raises: UnavailableError: there is none, or it does not answer in time. BatonError: what it says."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            if self._controller is None:
                self._controller = await asyncio.to_thread(ray.get_actor, self._name, namespace=self._namespace)
            reference = getattr(self._controller, method).remote(*arguments)
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, BatonError):
                raise cause from None
            raise UnavailableError(f"controller {self._name} failed: {error}") from error
        except (RayError, ValueError, TimeoutError) as error:
            self._controller = None  # a new controller is a new actor
            raise UnavailableError(f"controller {self._name} does not answer: {error}") from error


class WorkerTableClient:
    """Its absence is an UnavailableError, which the dispatcher lives with."""

    def __init__(self, link: ControllerLink, ingress_id: str, model: str) -> None:
        import ray

        self._link = link
        self._ingress_id = ingress_id
        self._model = model
        self._node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""

    async def __call__(self) -> Sequence[WorkerEntry]:
        table: list[WorkerEntry] = await self._link.ask(
            "workers", self._ingress_id, self._node_id, self._model, timeout_s=_FETCH_TIMEOUT_S
        )
        return table


class ModelTableClient:
    """Of the first controller."""

    def __init__(self, link: ControllerLink, ingress_id: str) -> None:
        self._link = link
        self._ingress_id = ingress_id

    async def __call__(self, version: int, num_open: Mapping[str, int]) -> ModelTable | None:
        """Raises: UnavailableError."""
        arguments = (self._ingress_id, version, dict(num_open))
        table: ModelTable | None = await self._link.ask("models", *arguments, timeout_s=_FETCH_TIMEOUT_S)
        return table


class FleetClient:
    """What there is to show of a fleet. `has_events`: its controller is the first, to whom others tell theirs."""

    def __init__(self, link: ControllerLink, *, has_events: bool) -> None:
        self._link = link
        self._has_events = has_events

    async def __call__(self, after: int) -> FleetNews:
        """See `cluster.ingress.cluster_api.fleet_news.AskFleet`."""
        status = await self._link.ask("own_status", timeout_s=_FETCH_TIMEOUT_S)
        events = await self._link.ask("events", after, timeout_s=_FETCH_TIMEOUT_S) if self._has_events else ()
        return await asyncio.to_thread(fleet_news, status, events)


class DemandClient:
    """Tells it of requests; `cluster.ingress.demand_teller` lives with its absence."""

    def __init__(self, link: ControllerLink) -> None:
        self._link = link

    async def __call__(self, report: DemandReport) -> DemandAnswer:
        """Raises: UnavailableError."""
        answer: DemandAnswer = await self._link.ask("finished", report, timeout_s=_FETCH_TIMEOUT_S)
        return answer


class AdapterClient:
    """Loads and unloads adapters on all workers, see `cluster.fleet.adapter_keeper`."""

    def __init__(self, link: ControllerLink) -> None:
        self._link = link

    async def load(self, name: str, folder: str) -> None:
        """Raises: InvalidRequestError, UnavailableError."""
        await self._link.ask("load_adapter", name, folder, timeout_s=_LOAD_TIMEOUT_S)

    async def unload(self, name: str) -> None:
        """Raises: ModelNotFoundError, UnavailableError."""
        await self._link.ask("unload_adapter", name, timeout_s=_LOAD_TIMEOUT_S)


class LocalLedger:
    """Of the only replica there is."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def __call__(self, ask: Ask) -> Grant:
        return self._ledger.draw(ask, time.monotonic())


class SharedLedger:
    """The controller's; while it does not answer, this replica's own with an equal part of each limit."""

    def __init__(self, link: ControllerLink, num_replicas: int) -> None:
        self._link = link
        self._num_replicas = num_replicas
        self._own = Ledger()
        self._alone_until_s = 0.0

    async def __call__(self, ask: Ask) -> Grant:
        if time.monotonic() >= self._alone_until_s:
            try:
                grant: Grant = await self._link.ask("draw", ask, timeout_s=_DRAW_TIMEOUT_S)
                return grant
            except UnavailableError as error:
                logger.warning("keys' limits are shared out equally for now error=%s", error.message)
                self._alone_until_s = time.monotonic() + _RETRY_S
        part = replace(ask, limits=_part(ask.limits, self._num_replicas))
        return self._own.draw(part, time.monotonic())


def _part(limits: KeyLimits, num_parts: int) -> KeyLimits:
    """At least 1 of each."""

    def of(limit: int | None) -> int | None:
        return None if limit is None else max(1, limit // num_parts)

    return KeyLimits(
        requests_per_minute=of(limits.requests_per_minute),
        tokens_per_minute=of(limits.tokens_per_minute),
        max_concurrent=of(limits.max_concurrent),
    )
