"""A replica among several asks the controller's ledger, and goes on with its part of the limits without it."""

import asyncio
from typing import Any

from baton.errors import UnavailableError
from cluster.config.api_key import KeyLimits
from cluster.doors.budget import Ask, Grant, Ledger
from cluster.ingress.controller_link import ControllerLink, SharedLedger


class Link(ControllerLink):
    """To a controller that may be away."""

    def __init__(self) -> None:
        super().__init__("baton", "controller")
        self.is_there = True
        self.num_asked = 0
        self._ledger = Ledger()

    async def ask(self, method: str, *arguments: Any, timeout_s: float) -> Grant:
        self.num_asked += 1
        if not self.is_there:
            raise UnavailableError("away")
        return self._ledger.draw(*arguments, 0.0)


def ask(replica: str) -> Ask:
    return Ask(replica=replica, name="alice", limits=KeyLimits(requests_per_minute=10), requests=1)


async def test_without_the_controller_each_replica_has_its_part() -> None:
    link = Link()
    ledgers = [SharedLedger(link, 2) for _ in "ab"]
    for number in range(10):
        assert not (await ledgers[number % 2](ask(str(number % 2)))).lacks
    assert (await ledgers[0](ask("0"))).lacks == "requests_per_minute"
    link.is_there, link.num_asked = False, 0
    for ledger in ledgers:
        grants = await asyncio.gather(*(ledger(ask("x")) for _ in range(7)))
        assert [grant.requests for grant in grants] == [1] * 5 + [0] * 2
    assert link.num_asked <= 2 * 7  # and it is not asked again for a while
    asked = link.num_asked
    await ledgers[0](ask("0"))
    assert link.num_asked == asked
