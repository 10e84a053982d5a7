"""The models of one ingress replica, by the names that clients use, and what they share: who is let in, and what is
counted.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from baton.errors import UnavailableError
from cluster.contracts.finished import FinishedRequest
from cluster.doors.guard import Guard, Pass
from cluster.ingress.errors import model_not_found
from cluster.ingress.metrics import Metrics
from cluster.ingress.service import OnFinished, Service
from cluster.ingress.tracing.asking import Question, answer, merged
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.visit import Visits
from cluster.router.counters import Counters
from cluster.router.table import Health
from cluster.router.workers import WorkerView

AskReplicas = Callable[[Question], Awaitable[list[list[dict[str, Any]]]]]


@dataclass(slots=True, kw_only=True, eq=False)
class Version:
    """One of the models of a served name; most have this one alone."""

    entry: str  # of the config's `models`; empty: there are none
    service: Service
    weight: float = 1.0
    controller: str = ""  # name of the actor that keeps its workers; empty: nobody does
    is_up: bool = True  # its workers answer, as far as was known at the last look


class Services:
    """What a route asks for the service of the model that a request names. For one event loop."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        guard: Guard | None = None,
        ring: Ring | None = None,
        visits: Visits | None = None,
        ask_replicas: AskReplicas | None = None,
    ) -> None:
        """
        Args:
            metrics: Of all models.
            guard: None: whoever comes is let in.
            ring: Of the calls that it remembers; None: one of its own.
            visits: Which are told of each request and call; None: those of a server that traces nothing.
            ask_replicas: Asks all of them about calls; None: this is the only one.
        """
        self.metrics = metrics
        self.ring = ring if ring is not None else Ring()
        self.visits = visits or Visits()
        self._ask_replicas = ask_replicas
        self.guard = guard
        self.leaving = asyncio.Event()  # set when this replica is about to end: what has no end by itself ends now
        self.on_finished: list[OnFinished] = []  # each is told of every call that ended, of all models
        self._versions: dict[str, Version] = {}  # by entry
        self._by_name: dict[str, tuple[Version, ...]] = {}  # served names, and each version's own

    @classmethod
    def of_one(cls, service: Service) -> "Services":
        """A service by itself is all that there is."""
        services = cls(metrics=service.metrics, guard=service.guard, ring=service.ring, visits=service.visits)
        services.add(Version(entry="", service=service))
        return services

    def __iter__(self) -> Iterator[Version]:
        """Those of now, in the order in which they came."""
        return iter(tuple(self._versions.values()))

    def add(self, version: Version) -> None:
        """Or puts it in the place of its entry's last one."""
        version.service.on_finished.append(self._tell)
        self._versions[version.entry] = version
        self._index()

    def _tell(self, finished: FinishedRequest) -> None:
        for tell in self.on_finished:
            tell(finished)

    def weigh(self, entry: str, weight: float) -> None:
        """Requests that come from now on are shared so."""
        self._versions[entry].weight = weight

    def remove(self, entry: str) -> None:
        """Nobody may name it any more; what it answers goes on."""
        del self._versions[entry]
        self._index()

    def look(self) -> None:
        """Which versions' workers answer now: others get requests only where no version's do."""
        for version in self._versions.values():
            version.is_up = version.service.dispatcher.health().ok

    async def calls(self, question: Question) -> list[dict[str, Any]]:
        """What the replicas remember of calls: see `cluster.ingress.tracing.asking`."""
        if self._ask_replicas is None:
            return merged(question, [answer(self.ring, question, "")])
        return merged(question, await self._ask_replicas(question))

    def counters(self) -> dict[str, Counters]:
        """Of each model's router, by its name; of several versions, by each one's own."""
        return {self.shown(version): version.service.dispatcher.counters for version in self}

    def states(self) -> Iterator[WorkerView]:
        """The workers of all models, each with what its model is called: ids of two versions' workers may be equal."""
        for version in self:
            model = self.shown(version)
            for view in version.service.dispatcher.states():
                yield replace(view, model=model)

    def shown(self, version: Version) -> str:
        """What it is called where versions are told apart."""
        model = version.service.model
        return model if self._by_name[model] == (version,) else f"{model}@{version.entry}"

    @property
    def names(self) -> list[str]:
        """Of all models, versions and adapters, as requests may give them."""
        found = dict.fromkeys(name for version in self for name in version.service.names)
        return [*found, *(alias for version in self for alias in self._aliases(version))]

    def _aliases(self, version: Version) -> Iterable[str]:
        """As far as they tell something: an entry that is all of its served name needs no other."""
        model = version.service.model
        return () if self._by_name[model] == (version,) and version.entry == model else version.service.aliases

    def of(self, name: str | None, admitted: Pass | None = None, *, session: str = "") -> Service:
        """Whose model a request names; of several versions, one by their weights.

        Args:
            name: None or empty: the first model.
            admitted: Whoever asks; None: nobody in particular.
            session: What requests have in common that shall go to one version; empty: each goes where it goes.
        Raises:
            PermissionDeniedError: Its key is not for that model, whether or not there is one.
            ModelNotFoundError, UnavailableError: There is no model yet.
        """
        versions = self._find(name or self._first())
        if admitted is not None:
            _check(admitted, name or self._first(), versions)
        if not versions:
            raise model_not_found(str(name), self.names)
        return _drawn(versions, session) if len(versions) > 1 else versions[0].service

    def about(self, name: str) -> Service:
        """The one that stands for a name: of several versions, that with the largest weight. Raises: as `of`."""
        versions = self._find(name)
        if not versions:
            raise model_not_found(name, self.names)
        return max(versions, key=lambda version: version.weight).service

    def of_entry(self, name: str) -> Service | None:
        """The one version that a name can only mean: a served name that has no other, or `SERVED@ENTRY`."""
        versions = self._by_name.get(name, ())
        return versions[0].service if len(versions) == 1 else None

    def with_adapter(self, name: str) -> tuple[Service, ...]:
        return tuple(version.service for version in self if name in version.service.dispatcher.adapters)

    def health(self) -> Health:
        """Ok while some model's workers answer; else why none's do."""
        healths = {version.entry: version.service.dispatcher.health() for version in self}
        if any(health.ok for health in healths.values()):
            return Health(ok=True)
        reasons = [f"{entry}: {health.reason}" if entry else health.reason for entry, health in healths.items()]
        return Health(ok=False, reason="; ".join(reasons) or "no model is served")

    def _first(self) -> str:
        for version in self._versions.values():
            return version.service.model
        raise UnavailableError("no model is served at the moment; try again in a second")

    def _find(self, name: str) -> tuple[Version, ...]:
        if name in self._by_name:
            return self._by_name[name]
        return tuple(version for version in self if name in version.service.dispatcher.adapters)

    def _index(self) -> None:
        found: dict[str, tuple[Version, ...]] = {}
        for version in self._versions.values():
            found[version.service.model] = (*found.get(version.service.model, ()), version)
        for version in self._versions.values():
            found |= dict.fromkeys(version.service.aliases, (version,))
        self._by_name = found
        for version in self._versions.values():
            version.service.shown = self.shown(version)


def _check(admitted: Pass, name: str, versions: Sequence[Version]) -> None:
    """A key for a model is for each version of it."""
    is_alias = any(name in version.service.aliases for version in versions)
    if not (is_alias and admitted.may_use(versions[0].service.model)):
        admitted.check_model(name)


def _drawn(versions: Sequence[Version], session: str) -> Service:
    """By weighted rendezvous: where weights change, no more sessions move than must."""
    usable = [version for version in versions if version.weight and version.is_up]
    usable = usable or [version for version in versions if version.weight] or list(versions)
    return min(usable, key=lambda version: _distance(version, session)).service


def _distance(version: Version, session: str) -> float:
    if not session:
        return random.expovariate(version.weight or 1.0)
    digest = blake2b(f"{version.entry}\0{session}".encode(errors="replace"), digest_size=8).digest()
    return -math.log((int.from_bytes(digest) + 1) / (1 << 64)) / (version.weight or 1.0)


def services_of(served: Service | Services) -> Services:
    return served if isinstance(served, Services) else Services.of_one(served)
