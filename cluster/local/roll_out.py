"""Follows a change of a running cluster to its end, for `baton up`: workers are replaced, the ingress turns to them.

The controller replaces, whoever looks on; here is who deploys the ingress in the right moment. A change that was left
half way is gone on with when the same file is applied again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from baton.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from cluster.fleet.status import FleetStatus

POLL_S = 0.2
TURN_S = 7.0  # replicas turn to workers that are there within a second, and those that are to go take requests for 5 s


class RolloutHaltedError(ConfigError):
    """What is new does not come up; what was before serves on."""


class Fleet(Protocol):
    def own_status(self) -> "FleetStatus": ...

    def switched(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RollOut:
    """
    Args:
        deploy: The ingress; returns when its new replicas take requests.
        patience_s: For one more worker to be replaced.
    """

    fleet: Fleet
    deploy: Callable[[], object]
    report: Callable[[str], None]
    patience_s: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def follow(self) -> None:
        """Returns when all workers are as wanted, and so is the ingress.

        Raises: RolloutHaltedError; UnavailableError: it does not get on; ConfigError: the ingress did not start.
        """
        status = self.fleet.own_status()
        if status.rollout is None or not status.rollout.holds_old:
            self.deploy()
        else:
            self._wait(lambda now: now.rollout is None or now.rollout.may_switch or not now.rollout.holds_old)
            self.report("turning the ingress to the new model")
            self.deploy()
            self.sleep(TURN_S)
            self.fleet.switched()
        self._wait(lambda now: now.rollout is None)

    def _wait(self, until: Callable[["FleetStatus"], bool]) -> None:
        last, since_s = -1, self.clock()
        while not until(status := self.fleet.own_status()):
            rollout = status.rollout
            assert rollout is not None, "each of the conditions holds without one"
            if rollout.halted:
                raise RolloutHaltedError(
                    f"the change is halted after {rollout.num_replaced} of {rollout.num_wanted} workers: "
                    f"{rollout.halted}; what was before serves on. Apply a mended file, or the old one to go back"
                )
            if rollout.num_replaced != last:
                last, since_s = rollout.num_replaced, self.clock()
            waits = [pool.waits for pool in status.pools if pool.waits]
            self.report("; ".join([f"replacing workers: {last}/{rollout.num_wanted}", *waits]))
            if self.clock() - since_s > self.patience_s:
                why = "; ".join(waits) or "see `baton status`"
                raise UnavailableError(
                    f"{rollout.why} did not get on for {self.patience_s:g} s after {last} of {rollout.num_wanted} "
                    f"workers: {why}; it goes on by itself when it can, or apply the old file to go back"
                )
            self.sleep(POLL_S)
