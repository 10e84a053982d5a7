"""`baton keep`: a cluster as its file says, for as long as somebody runs this command."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError

LOOK_S = 2.0

logger = logging.getLogger(__name__)


def command(
    config: Annotated[Path, typer.Argument(metavar="CLUSTER.YAML", help="Read again whenever it changes.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="A change that a running cluster cannot take drains it and starts it anew."),
    ] = False,
) -> None:
    """Keep a cluster on the Ray of RAY_ADDRESS as a file says; for pods and other supervisors.

    Waits for Ray, brings the cluster up, tries again where that fails, and applies the file whenever it changes. What
    runs stays when this command ends, and is taken up when it starts again. Ends with an error when Ray is gone.

    Below BATON_HOME, `alive` is touched while work goes on, and `ready` is there while every serving pool is whole.

    RAY_ADDRESS=10.0.0.1:6379 baton keep cluster.yaml --replace
    """
    from cluster.commands.fetching import resolve_config_shown
    from cluster.config.load import loads, read_text
    from cluster.config.schema import BatonConfig
    from cluster.host import state
    from cluster.local import ray_node as local_ray
    from cluster.local.keeper import Keeper, Marks, wait_for
    from cluster.local.kept_cluster import KeptCluster
    from cluster.logs.setup import set_up

    address = local_ray.external_address()
    if address is None:
        raise ConfigError("RAY_ADDRESS: is not set; give host:port of Ray's head node, or use `baton serve`")
    said = [""]
    log_format = ["text"]  # as the file says that was read last

    def say(text: str) -> None:
        if text != said[0] and log_format[0] == "json":
            logger.info("%s", text)
        elif text != said[0]:
            typer.echo(text, err=True)
        said[0] = text

    def parse(text: str) -> BatonConfig:
        parsed = loads(text)
        log_format[0] = parsed.logging.format
        if log_format[0] == "json":
            set_up("json")
        return parsed

    state.cluster_secret()  # makes the home
    marks = Marks(state.home())
    marks.ready(False)

    def leave(number: int, frame: object) -> None:
        """At once and half way too: what runs stays, and the next one takes it up."""
        marks.ready(False)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave)

    def report(text: str) -> None:
        marks.alive()
        say(text)

    wait_for(lambda: local_ray.check_answers(address), marks, say, time.sleep)
    keeper = Keeper(
        KeptCluster(resolve_config_shown, report, lambda text: say(f"warning: {text}")),
        marks,
        read=lambda: read_text(config),
        parse=parse,
        replace=replace,
        say=say,
    )
    try:
        while True:
            keeper.turn(time.monotonic())
            time.sleep(LOOK_S)
    finally:
        marks.ready(False)
