"""`baton serve`: a cluster for as long as the command runs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError, UnavailableError
from cluster.commands.options import ConfigPath, DrainTimeout, Overrides, load_config
from cluster.commands.up import bring_up_shown, print_ready
from cluster.host.signals import uninterrupted
from cluster.host.state import ClusterState

if TYPE_CHECKING:
    from cluster.config.schema import BatonConfig
    from cluster.local.bring_up import Running

LOOK_S = 1.0
DOWN_TIMEOUT_S = 60.0  # that a `baton down` in another terminal may take


def command(
    config: ConfigPath = None,
    overrides: Overrides = None,
    drain_timeout_s: DrainTimeout = 5.0,
    timings: Annotated[bool, typer.Option("--timings", help="Say where the time went.")] = False,
) -> None:
    """Start a cluster, show where it answers, and end it all on Ctrl-C.

    baton serve

    baton serve cluster.yaml --set http.port=8080
    """
    from cluster.host import state
    from cluster.local import ray_node as local_ray

    loaded = load_config(config, overrides)
    try:
        with own_cluster(loaded, drain_timeout_s=drain_timeout_s) as running:
            print_ready(running, end="Ctrl-C", timings=timings)
            while local_ray.is_running(running.cluster):
                time.sleep(LOOK_S)
            with state.lock(DOWN_TIMEOUT_S):
                is_down = state.read() is None
            if not is_down:
                raise UnavailableError("Ray has ended by itself; start again, and see `baton doctor` when it repeats")
            typer.echo("ended by `baton down`", err=True)
    except KeyboardInterrupt:
        return


@contextmanager
def own_cluster(config: "BatonConfig", *, drain_timeout_s: float = 5.0) -> Iterator["Running"]:
    """A cluster for the block, ended with it; SIGTERM ends it as Ctrl-C does.

    Args:
        drain_timeout_s: How long running requests may go on at the end.
    Raises:
        ConfigError: One runs already; or as `bring_up`, and UnavailableError.
    """
    from cluster.host import state
    from cluster.local import ray_node as local_ray

    found = state.read()
    if found is not None and local_ray.is_running(found):
        raise _runs_already(found)
    signal.signal(signal.SIGTERM, lambda number, frame: _interrupt())
    try:
        running = bring_up_shown(config)
        if not running.fresh:
            raise _runs_already(running.cluster)
        yield running
    except KeyboardInterrupt:
        typer.echo("ending; Ctrl-C again does not wait for running requests", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(drain_timeout_s)


def _runs_already(cluster: ClusterState) -> ConfigError:
    return ConfigError(f"BATON_HOME: a cluster runs already at {cluster.http}; `baton down` first, or use `baton up`")


def _end(drain_timeout_s: float) -> None:
    from cluster.local.bring_up import take_down

    def report(text: str) -> None:
        typer.echo(text, err=True)

    try:
        take_down(drain_timeout_s, report, wait_s=DOWN_TIMEOUT_S, starter_pid=os.getpid())
    except KeyboardInterrupt:
        with uninterrupted():
            take_down(0.0, report, wait_s=DOWN_TIMEOUT_S, starter_pid=os.getpid())


def _interrupt() -> None:
    raise KeyboardInterrupt
