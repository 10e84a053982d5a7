"""Brings the fleets of all models to what a config says, each with a controller of its own: those that are new begin
beside those that run, and those that are gone end when nothing of theirs runs any more.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baton.errors import UnavailableError
from cluster.config.entries import fleets_of, named
from cluster.config.schema import BatonConfig
from cluster.contracts.served_model import ModelTable, ServedModel

if TYPE_CHECKING:
    from cluster.fleet.client import ControllerClient
    from cluster.fleet.plan import FleetPlan

POLL_S = 0.1
SHOWN_TIMEOUT_S = 60.0  # until ingress replicas have read a new model's files and reached its workers
QUIET_S = 2.0  # without an open call of a model that is gone: a prompt may still be on its way to one


@dataclass(frozen=True, slots=True)
class Applied:
    models: tuple[ServedModel, ...]
    plans: tuple["FleetPlan", ...]


class Fleets:
    """Of a cluster whose Ray is connected.

    Args:
        report: What is under way.
    """

    def __init__(self, first: "ControllerClient", secret: str, report: Callable[[str], None]) -> None:
        self.first = first
        self._secret = secret
        self._report = report

    def apply(self, config: BatonConfig) -> Applied:
        """Makes it what is wanted, at once; workers and ingress replicas follow.

        Raises: ConfigError, as `Controller.apply`, with the entry's name.
        """
        table = self.first.model_table()
        homes = homes_of(config, table)
        running = {row.entry for row in table.staying()}
        fleets = dict(fleets_of(config))
        plans: dict[str, FleetPlan] = {}
        _announce({homes[entry]: fleet for entry, fleet in fleets.items() if entry not in running})
        drained = self.first.status().drained
        for entry in sorted(fleets, key=lambda entry: entry not in running):  # what is refused starts nothing new
            controller = self._controller(homes[entry])
            with named(entry):
                plans[entry] = controller.apply(fleets[entry])
            for node_id in set(drained) - set(plans[entry].drained):
                controller.drain_node(node_id, undo=False)
        models = tuple(_row(config, entry, homes[entry], plans[entry]) for entry in fleets)
        self.first.serve_models(models)
        return Applied(models, tuple(plans[entry] for entry in fleets))

    def controllers(self) -> "list[ControllerClient]":
        """Of all models that are served, the first one first."""
        names = dict.fromkeys([first_name(), *(row.controller for row in self.first.model_table().staying())])
        return [self._controller(name) for name in names]

    def is_home(self, controller: "ControllerClient", row: ServedModel) -> bool:
        """Whether it keeps the model's workers."""
        return bool(self._controller(row.controller).actor == controller.actor)

    def wait_until_served(self, models: Sequence[ServedModel]) -> None:
        """By every ingress replica. Raises: UnavailableError: not within SHOWN_TIMEOUT_S."""
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while missing := self.first.not_served([model.entry for model in models]):
            self._report(f"waiting for the ingress to serve {', '.join(missing)}")
            if time.monotonic() > deadline:
                raise UnavailableError(f"models.{missing[0]}: the ingress does not serve it yet; see `baton status`")
            time.sleep(POLL_S)

    def end_leaving(self) -> None:
        """Lets the models that are gone finish what runs, then ends their workers."""
        for row in [row for row in self.first.model_table().models if row.leaving]:
            self._report(f"finishing what runs on {row.entry or row.served_name}")
            timeout_s = row.config.health.drain_timeout_s
            self._wait_until_quiet(row.entry, timeout_s)
            self._end(row, timeout_s)
            self.first.forget_model(row.entry)

    def _wait_until_quiet(self, entry: str, timeout_s: float) -> None:
        deadline, quiet_s = time.monotonic() + timeout_s + QUIET_S, math.inf  # since then; not yet
        while (now_s := time.monotonic()) < deadline and now_s - quiet_s < QUIET_S:
            quiet_s = min(quiet_s, time.monotonic()) if self.first.is_quiet(entry) else math.inf
            time.sleep(POLL_S)

    def _end(self, row: ServedModel, timeout_s: float) -> None:
        controller = self._controller(row.controller)
        if row.controller == first_name():
            controller.end_workers(timeout_s)
        else:
            controller.shutdown(timeout_s)

    def _controller(self, name: str) -> "ControllerClient":
        from cluster.fleet.client import ControllerClient

        if name == first_name():
            return self.first
        return ControllerClient.start(self._secret, entry=name.removeprefix(f"{first_name()}."))


def _announce(coming: Mapping[str, BatonConfig]) -> None:
    """How many ranks models will have that begin at once, so that the first to get cores leaves the others some.

    Args:
        coming: By their controllers' names.
    """
    from cluster.fleet.beside import Beside, Seats
    from cluster.fleet.client import namespace_of

    for name, fleet in coming.items():
        num_ranks = sum(pool.workers * pool.num_ranks for _, pool in fleet.pools.by_name())
        Beside(namespace_of(name)).tell(Seats(num_ranks=num_ranks))


def first_name() -> str:
    from cluster.fleet.client import CONTROLLER_NAME

    return CONTROLLER_NAME


def homes_of(config: BatonConfig, table: ModelTable) -> Mapping[str, str]:
    """Entry -> the name of the controller that keeps its workers.

    A new one has one of its own; the first of a new cluster has the first. Where one model becomes several, or several
    one, the workers of the same model under the same name go on.

    Raises: NeedsDownError: several become one that none of them is.
    """
    from cluster.fleet.client import CONTROLLER_NAME, name_of

    running = {row.entry: row for row in table.staying()}
    homes: dict[str, str] = {}
    for entry, fleet in fleets_of(config):
        if entry in running:
            homes[entry] = running[entry].controller
        elif not table.models and not homes:
            homes[entry] = CONTROLLER_NAME
        else:
            homes[entry] = _taken_over(entry, fleet, running, config, homes) or name_of(entry)
    if "" in homes and homes[""] == CONTROLLER_NAME and "" not in running:
        _check_becomes_one(table, config)
    return homes


def _taken_over(
    entry: str,
    fleet: BatonConfig,
    running: Mapping[str, ServedModel],
    config: BatonConfig,
    homes: Mapping[str, str],
) -> str | None:
    """The controller of what runs without an entry's name, or of what is to run without one."""
    gone = [row for name, row in running.items() if name not in dict(fleets_of(config))]
    for row in gone:
        is_same = (row.config.model, row.served_name) == (fleet.model, fleet.shown_name)
        if is_same and row.controller not in homes.values() and "" in (row.entry, entry):
            return row.controller
    return None


def _check_becomes_one(table: ModelTable, config: BatonConfig) -> None:
    from cluster.fleet.client import CONTROLLER_NAME
    from cluster.fleet.plan import NeedsDownError

    for row in table.models:
        is_same = (row.config.model, row.served_name) == (config.model, config.shown_name)
        if row.controller == CONTROLLER_NAME and not is_same:
            raise NeedsDownError(
                f"model: {config.model} cannot take the place of `models` while {row.entry} runs; keep `models` with "
                "one entry, or run `baton down` first"
            )


def _row(config: BatonConfig, entry: str, home: str, plan: "FleetPlan") -> ServedModel:
    from cluster.fleet.generation import model_key

    weight, workers_model = config.models[entry].weight if entry else 1.0, model_key(plan)
    return ServedModel(
        entry=entry,
        controller=home,
        config=plan.config,
        model_path=plan.model_path,
        workers_model=workers_model,
        weight=weight,
        file_weight=weight,
    )
