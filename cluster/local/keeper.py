"""Keeps a cluster as its file says, for a supervisor that starts this process again when it ends (a pod's kubelet).

The Ray cluster is somebody else's and may be new, or have this home's cluster already. What runs stays when this
process ends. Whether a cluster is there and whole stands in two files below BATON_HOME, for the supervisor's probes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from baton.errors import BatonError, ConfigError, UnavailableError
from cluster.config.schema import BatonConfig
from cluster.fleet.plan import NeedsDownError

RETRY_S = 10.0
LOST_S = 60.0  # a controller that died is back in seconds; a Ray that was started anew never is


class Cluster(Protocol):
    """What is kept."""

    def up(self, config: BatonConfig) -> None:
        """Returns when it answers. Raises: NeedsDownError, ConfigError, UnavailableError: see `bring_up`."""

    def down(self) -> None:
        """Drains and ends it."""

    def is_whole(self) -> bool:
        """Whether every pool that serves has its workers. Raises: UnavailableError: Ray or the controller is away."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Files that probes look at."""

    home: Path

    def alive(self) -> None:
        """Work goes on; the file's time says when it did last."""
        (self.home / "alive").touch()

    def ready(self, is_ready: bool) -> None:
        if is_ready:
            (self.home / "ready").touch()
        else:
            (self.home / "ready").unlink(missing_ok=True)


class Keeper:
    """
    Args:
        read: The file's text. `parse`: the config of it, or a ConfigError.
        replace: A change that a running cluster cannot take ends it and starts it anew; else it stays as it was.
        say: A line for the log.
    """

    def __init__(
        self,
        cluster: Cluster,
        marks: Marks,
        *,
        read: Callable[[], str],
        parse: Callable[[str], BatonConfig],
        replace: bool,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._marks = marks
        self._read = read
        self._parse = parse
        self._replace = replace
        self._say = say
        self._applied: str | None = None  # text of what runs
        self._refused: str | None = None  # text that is not tried again
        self._retry_s = 0.0  # not before
        self._heard_s = 0.0  # from the controller, the last time

    def turn(self, now_s: float) -> None:
        """One look at file and cluster; often. Raises: UnavailableError: what ran is gone for LOST_S."""
        self._marks.alive()
        text = self._read()
        if text not in (self._applied, self._refused) and now_s >= self._retry_s:
            self._take(text, now_s)
        if self._applied is not None:
            self._marks.ready(self._is_whole(now_s))

    def _is_whole(self, now_s: float) -> bool:
        try:
            is_whole = self._cluster.is_whole()
        except UnavailableError:
            if now_s - self._heard_s > LOST_S:
                raise
            return False
        self._heard_s = now_s
        return is_whole

    def _take(self, text: str, now_s: float) -> None:
        try:
            self._apply(self._parse(text))
        except ConfigError as error:
            self._refused = text
            going_on = "; what runs goes on as it was" if self._applied is not None else ""
            self._say(f"refused: {error.message}{going_on}. Waiting for the file to change")
        except BatonError as error:
            self._retry_s = now_s + RETRY_S
            self._say(f"failed: {error.message}. Trying again in {RETRY_S:g} s")
        else:
            self._applied, self._refused, self._heard_s = text, None, now_s

    def _apply(self, config: BatonConfig) -> None:
        try:
            self._cluster.up(config)
        except NeedsDownError as error:
            if not self._replace:
                raise
            self._say(f"starting anew: {error.message}")
            self._marks.ready(False)
            self._applied = None
            self._cluster.down()
            self._cluster.up(config)


def wait_for(
    answers: Callable[[], None], marks: Marks, say: Callable[[str], None], sleep: Callable[[float], None]
) -> None:
    """Until `answers` raises no UnavailableError."""
    said = ""
    while True:
        marks.alive()
        try:
            return answers()
        except UnavailableError as error:
            if error.message != said:
                say(f"waiting: {error.message}")
            said = error.message
        sleep(1.0)
