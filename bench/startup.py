"""Time from `baton up` to the first token, and where it goes.

python -m bench.startup            # 3 starts
python -m bench.startup --quick    # one
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import baton
from bench.machine import Quick, announce

START_S = 25.0  # of a start and its end, about
CONFIG = "model: demo\nhttp: {port: 0}\ngrpc: {port: 0}\n"  # all else at its default: 1 prefill + 1 decode worker


def run_once(folder: Path) -> dict[str, float]:
    """Seconds per step of one start; `up` until the command returns, `first token` after it."""
    config = folder / "cluster.yaml"
    config.write_text(CONFIG)
    env = os.environ | {"BATON_HOME": str(folder)}
    command = [sys.executable, "-m", "cluster.cli"]
    begin_s = time.monotonic()
    try:
        told = subprocess.run([*command, "up", str(config), "--timings"], env=env, check=True, stdout=subprocess.PIPE)
        up_s = time.monotonic() - begin_s
        state: dict[str, Any] = json.loads((folder / "cluster.json").read_text())
        with baton.Client(state["grpc"]) as client, client.stream("Once upon a time", max_tokens=2) as stream:
            next(stream)
            first_s = time.monotonic() - begin_s
    finally:
        subprocess.run([*command, "down"], env=env, check=True, capture_output=True)
    return {"up to first token": first_s, "first token": first_s - up_s, **steps_of(told.stdout.decode())}


def steps_of(text: str) -> dict[str, float]:
    """The lines `   9.3 s  ray` of `baton up --timings`."""
    found = {}
    for line in text.splitlines():
        seconds, _, name = line.strip().partition(" s  ")
        if name and seconds.replace(".", "", 1).isdigit():
            found[name] = float(seconds)
    return found


def main(
    runs: Annotated[
        int | None, typer.Option(min=1, help="Starts; the median of each step is shown. 3, or 1 by --quick.")
    ] = None,
    quick: Quick = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write every run.")] = None,
) -> None:
    """Starts the default cluster `runs` times."""
    num_runs = runs or (1 if quick else 3)
    announce("bench.startup", about_s=START_S * num_runs)
    found = []
    for number in range(num_runs):
        with tempfile.TemporaryDirectory(prefix="bt-") as folder:
            found.append(run_once(Path(folder)))
        steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found[-1].items())
        print(f"start {number + 1} of {num_runs}, s: {steps}", flush=True)
    table = Table(title=f"`baton up` to the first token, median of {num_runs}, {os.cpu_count()} cores")
    table.add_column("step")
    table.add_column("s", justify="right")
    for name in found[0]:
        table.add_row(name, f"{statistics.median(run.get(name, 0.0) for run in found):.1f}")
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
