"""`make soak`, or `python -m tools.soak`: see docs/soak.md."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from bench.machine import announce
from tools.soak.cluster import CONFIG, CommandError, SoakCluster
from tools.soak.hosts import CONFIG as HOSTS_CONFIG
from tools.soak.hosts import HostsCluster
from tools.soak.known import UnknownError
from tools.soak.report import write
from tools.soak.soak import Settings, Soak
from tools.two_hosts import missing

NOT_HERE = {"models", "auth", "tls"}  # of a config: its clients ask one model, without keys, over plain connections
AROUND_S = 90.0  # a cluster's start and end, known answers


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Of load; start, known answers and end come on top.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of requests, arrivals and events.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: runs/soak-<time>.")] = None,
    config: Annotated[Path | None, typer.Option(exists=True, help="Of the cluster, as for `baton up`.")] = None,
    asks: Annotated[int, typer.Option(min=15, help="Requests of the corpus.")] = 200,
    load: Annotated[float, typer.Option(min=0.05, max=2.0, help="Share of what six clients at once were given.")] = 0.5,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Requests/s, instead of --load.")] = None,
    every_s: Annotated[float | None, typer.Option("--every", min=3.0, help="Mean seconds between two events.")] = None,
    sample_s: Annotated[float, typer.Option("--sample", min=1.0, help="Seconds between two samples.")] = 5.0,
    only: Annotated[str, typer.Option(help="Kinds of events, comma-separated words of their names; empty: all.")] = "",
    hosts: Annotated[bool, typer.Option("--hosts", help="On two hosts made of namespaces, with a cut link.")] = False,
) -> None:
    """Runs a cluster under mixed load and every kind of trouble, and holds all answers to known ones."""
    logging.basicConfig(level=logging.WARNING)
    if hosts and (lacking := missing()):
        raise typer.BadParameter(lacking, param_hint="--hosts")
    announce("soak", about_s=minutes * 60 + AROUND_S)
    folder = out or Path("runs") / time.strftime("soak-%Y%m%d-%H%M%S")
    words = tuple(word.strip() for word in only.split(",") if word.strip())
    settings = Settings(
        minutes=minutes,
        seed=seed,
        num_asks=asks,
        load=load,
        rate=rate,
        every_s=every_s,
        sample_s=sample_s,
        only=words,
        out=folder,
    )
    kind, default = (HostsCluster, HOSTS_CONFIG) if hosts else (SoakCluster, CONFIG)
    cluster = kind(_read(config.read_text(encoding="utf-8") if config else default))
    soak = Soak(settings, cluster, lambda line: print(line, flush=True))
    try:
        result = asyncio.run(soak.run())
    except (CommandError, UnknownError) as error:
        print(f"soak FAILED: {error}")
        raise typer.Exit(1) from None
    page = write(result, folder)
    for line in result.cannot:
        print(f"not done here: {line}")
    for trouble in result.troubles()[:30]:
        print(f"  {trouble}")
    print(f"{result.summary()}; {page}")
    raise typer.Exit(0 if result.is_well else 1)


def _read(text: str) -> dict[str, Any]:
    """Raises: typer.BadParameter: a config that cannot be soaked; what else is wrong with it, `baton up` says."""
    config = yaml.safe_load(text) or {}
    if not isinstance(config, dict) or not isinstance(config.get("pools", {}), dict):
        raise typer.BadParameter("it is no mapping of keys, as `baton up` takes", param_hint="--config")
    for key in NOT_HERE & config.keys():
        raise typer.BadParameter(f"{key} is set, which a soak does not know: leave it out", param_hint="--config")
    return {"model": "demo", "dtype": "float32", **config}


if __name__ == "__main__":
    typer.run(main)
