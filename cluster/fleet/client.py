"""The controller as others see it: found by name, asked with deadlines, Ray's errors mapped to Baton's."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from baton.errors import BatonError, ConfigError, UnavailableError
from cluster.config.schema import BatonConfig
from cluster.contracts.events import Event, EventKind
from cluster.contracts.served_model import ModelTable, ServedModel
from cluster.fleet.controller import Controller
from cluster.fleet.node_drain import NodeStatus
from cluster.fleet.nodes import ON_HEAD
from cluster.fleet.owner import Owner
from cluster.fleet.plan import FleetPlan
from cluster.fleet.role_keeper import WorkerRole
from cluster.fleet.shell import WORKER_CLASS
from cluster.fleet.status import FleetStatus
from cluster.router.workers import WorkerEntry
from workers.adapters.adapter import AdapterSpec
from workers.role_rules import RoleChanged
from workers.spec import Role

NAMESPACE = "baton"
CONTROLLER_NAME = "baton-controller"
CALL_TIMEOUT_S = 30.0
ROLE_TIMEOUT_S = 320.0  # a worker that comes to decode may load a draft model
POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerClient:
    actor: Any

    @classmethod
    def find(cls, namespace: str = NAMESPACE, name: str = CONTROLLER_NAME) -> Self | None:
        """The controller that runs on the connected Ray cluster."""
        try:
            return cls(actor=ray.get_actor(name, namespace=namespace))
        except ValueError:
            return None

    @classmethod
    def start(
        cls,
        secret: str,
        *,
        namespace: str = NAMESPACE,
        name: str = CONTROLLER_NAME,
        entry: str = "",
        worker_class: str = WORKER_CLASS,
        worker_env: Mapping[str, str] | None = None,
    ) -> Self:
        """The controller that runs, or a new one. It outlives this process and is started again when it dies.

        Args:
            entry: Of the config's `models`, whose workers are apart from the first controller's; empty: the first.

        It lives on the head node, without which Ray cannot go on either.
        Raises: ConfigError: the one that runs is another home's.
        """
        owner = Owner.here(secret)
        options = {
            "name": name_of(entry, name),
            "namespace": namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 3,
            "enable_task_events": False,  # else Ray's GCS keeps a record of each poll: some MiB a minute, up to 100,000
            "resources": ON_HEAD,
        }
        actor = (
            ray.remote(Controller)
            .options(**options)
            .remote(
                namespace=f"{namespace}.{entry}" if entry else namespace,
                secret=secret,
                owner=owner,
                entry=entry,
                worker_class=worker_class,
                worker_env=dict(worker_env or {}),
            )
        )
        client = cls(actor=actor)
        client.check_owner(owner)
        return client

    def owner(self, timeout_s: float = CALL_TIMEOUT_S) -> Owner:
        owner: Owner = _get(self.actor.owner.remote(), timeout_s)
        return owner

    def check_owner(self, wanted: Owner) -> None:
        """Raises: ConfigError: it keeps the cluster of another home."""
        found = self.owner()
        if not found.is_same(wanted):
            raise ConfigError(
                f"RAY_ADDRESS: that Ray cluster has a Baton cluster already, started on {found.machine} with "
                f"BATON_HOME={found.home}; use that home, `baton down` there first, or give another Ray cluster"
            )

    def apply(self, config: BatonConfig, timeout_s: float = CALL_TIMEOUT_S) -> FleetPlan:
        """Raises: ConfigError: see `Controller.apply`."""
        plan: FleetPlan = _get(self.actor.apply.remote(config), timeout_s)
        return plan

    def status(self, timeout_s: float = CALL_TIMEOUT_S) -> FleetStatus:
        status: FleetStatus = _get(self.actor.status.remote(), timeout_s)
        return status

    def events(self, after: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> tuple[Event, ...]:
        """See `Controller.events`."""
        events: tuple[Event, ...] = _get(self.actor.events.remote(after), timeout_s)
        return events

    def drain_node(self, name: str, *, undo: bool, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """See `Controller.drain_node`."""
        node_id: str = _get(self.actor.drain_node.remote(name, undo), timeout_s)
        return node_id

    def nodes(self, timeout_s: float = CALL_TIMEOUT_S) -> tuple[NodeStatus, ...]:
        found: tuple[NodeStatus, ...] = _get(self.actor.nodes.remote(), timeout_s)
        return found

    def plan(self, timeout_s: float = CALL_TIMEOUT_S) -> FleetPlan:
        """What is wanted. Raises: UnavailableError: nothing is."""
        plan: FleetPlan = _get(self.actor.plan.remote(), timeout_s)
        return plan

    def switched(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """See `Controller.switched`."""
        _get(self.actor.switched.remote(), timeout_s)

    def tell(self, kind: EventKind, subject: str, text: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Of what a command did."""
        _get(self.actor.tell.remote(kind, subject, text), timeout_s)

    def own_status(self, timeout_s: float = CALL_TIMEOUT_S) -> FleetStatus:
        """Of its own model alone."""
        status: FleetStatus = _get(self.actor.own_status.remote(), timeout_s)
        return status

    def workers(self, timeout_s: float = CALL_TIMEOUT_S) -> list[WorkerEntry]:
        table: list[WorkerEntry] = _get(self.actor.workers.remote(), timeout_s)
        return table

    def model_table(self, timeout_s: float = CALL_TIMEOUT_S) -> ModelTable:
        """What is served: of the first controller, as the next ones."""
        table: ModelTable = _get(self.actor.model_table.remote(), timeout_s)
        return table

    def serve_models(self, models: Sequence[ServedModel], timeout_s: float = CALL_TIMEOUT_S) -> None:
        _get(self.actor.serve_models.remote(list(models)), timeout_s)

    def weigh(self, served_name: str, weights: Mapping[str, float] | None, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Raises: ConfigError: see `ModelBook.weigh`."""
        _get(self.actor.weigh.remote(served_name, weights), timeout_s)

    def not_served(self, entries: Sequence[str], timeout_s: float = CALL_TIMEOUT_S) -> list[str]:
        """See `ModelBook.not_served`."""
        missing: list[str] = _get(self.actor.not_served.remote(list(entries)), timeout_s)
        return missing

    def is_quiet(self, entry: str, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """See `Controller.is_quiet`."""
        is_quiet: bool = _get(self.actor.is_quiet.remote(entry), timeout_s)
        return is_quiet

    def forget_model(self, entry: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        _get(self.actor.forget_model.remote(entry), timeout_s)

    def clear_models(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        _get(self.actor.clear_models.remote(), timeout_s)

    def load_adapter(self, name: str, folder: str, timeout_s: float) -> None:
        """Raises: InvalidRequestError: see `AdapterKeeper.load`."""
        _get(self.actor.load_adapter.remote(name, folder), timeout_s)

    def unload_adapter(self, name: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Raises: ModelNotFoundError."""
        _get(self.actor.unload_adapter.remote(name), timeout_s)

    def adapters(self, timeout_s: float = CALL_TIMEOUT_S) -> tuple[AdapterSpec, ...]:
        """That the workers have."""
        found: tuple[AdapterSpec, ...] = _get(self.actor.adapters.remote(), timeout_s)
        return found

    def set_role(self, worker_id: str, role: Role | None, timeout_s: float = ROLE_TIMEOUT_S) -> RoleChanged:
        """Raises: InvalidRequestError, UnavailableError: see `RoleKeeper.change`."""
        changed: RoleChanged = _get(self.actor.set_role.remote(worker_id, role), timeout_s)
        return changed

    def roles(self, timeout_s: float = CALL_TIMEOUT_S) -> tuple[WorkerRole, ...]:
        """Of every worker."""
        found: tuple[WorkerRole, ...] = _get(self.actor.roles.remote(), timeout_s)
        return found

    def shutdown(self, drain_timeout_s: float) -> None:
        """Ends all workers, then the controller itself."""
        try:
            self.end_workers(drain_timeout_s)
        finally:
            ray.kill(self.actor, no_restart=True)

    def end_workers(self, drain_timeout_s: float) -> None:
        """The controller stays."""
        _get(self.actor.shutdown.remote(drain_timeout_s), drain_timeout_s + CALL_TIMEOUT_S)

    def wait_for(self, until: Callable[[FleetStatus], bool], timeout_s: float) -> FleetStatus:
        """Asks until `until(status)`, or the time is over: then it is an UnavailableError."""
        deadline = time.monotonic() + timeout_s
        while not until(status := self.status()):
            if time.monotonic() > deadline:
                raise UnavailableError(f"the fleet did not get there within {timeout_s:g} s: {status.workers}")
            time.sleep(POLL_S)
        return status


def name_of(entry: str, first: str = CONTROLLER_NAME) -> str:
    """Of the actor that keeps an entry's workers; of the first where it has no name."""
    return f"{first}.{entry}" if entry else first


def namespace_of(name: str, first: str = CONTROLLER_NAME, namespace: str = NAMESPACE) -> str:
    """Of the actors of a controller's workers."""
    return f"{namespace}{name.removeprefix(first)}"


def further(namespace: str = NAMESPACE, name: str = CONTROLLER_NAME) -> list[ControllerClient]:
    """The controllers of the connected Ray cluster beside the first."""
    names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == namespace]
    found = [ControllerClient.find(namespace, one) for one in sorted(names) if one.startswith(f"{name}.")]
    return [client for client in found if client is not None]


def _get(reference: Any, timeout_s: float) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, BatonError):
            raise cause from None
        raise
    except GetTimeoutError as error:
        raise UnavailableError(
            f"the controller did not answer within {timeout_s:g} s; try again, or `baton down`"
        ) from error
    except RayError as error:
        raise UnavailableError("the controller is away; Ray starts it again, try in a few seconds") from error
