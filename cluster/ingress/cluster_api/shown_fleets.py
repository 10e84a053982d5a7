"""The fleets that a view shows: those of the models that this replica serves now, which come and go."""

from collections.abc import Callable, Sequence

from cluster.ingress.cluster_api.fleet_news import AskFleet
from cluster.ingress.cluster_api.view import Fleet
from cluster.ingress.services import Services


class ShownFleets:
    """
    Args:
        ask: How the controller of a name is asked; None: there are none.
    """

    def __init__(self, services: Services, ask: Callable[[str], AskFleet] | None = None) -> None:
        self._services = services
        self._ask = ask
        self._known: dict[str, Fleet] = {}  # by entry

    def __call__(self) -> Sequence[Fleet]:
        """Of now; a fleet that stays is the same object."""
        found: dict[str, Fleet] = {}
        for version in self._services:
            known, dispatcher = self._known.get(version.entry), version.service.dispatcher
            if known is None or known.dispatcher is not dispatcher:
                ask = self._ask(version.controller) if self._ask is not None else None
                known = Fleet(model=self._services.shown(version), dispatcher=dispatcher, ask=ask)
            found[version.entry] = known
        self._known = found
        return list(found.values())
