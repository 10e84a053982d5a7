"""`baton serve`: a cluster for as long as the command runs."""

import signal
import threading
from typing import Annotated

import typer

from baton.errors import ConfigError, UnavailableError
from cluster.commands.options import ConfigPath, DrainTimeout, Overrides, load_config
from cluster.commands.up import bring_up_shown, print_ready

LOOK_S = 1.0


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
    from cluster import local_ray, state
    from cluster.bring_up import take_down

    loaded = load_config(config, overrides)
    found = state.read()
    if found is not None and local_ray.is_running(found):
        raise ConfigError(f"BATON_HOME: a cluster runs already at {found.http}; `baton down` first, or use `baton up`")
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _interrupt())
    try:
        running = bring_up_shown(loaded)
        print_ready(running, end="Ctrl-C", timings=timings)
        while not asked.wait(LOOK_S):
            if not local_ray.is_running(running.cluster):
                raise UnavailableError("Ray has ended by itself; start again, and see `baton doctor` when it repeats")
    except KeyboardInterrupt:
        typer.echo("ending", err=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        take_down(drain_timeout_s, lambda text: typer.echo(text, err=True))


def _interrupt() -> None:
    raise KeyboardInterrupt
