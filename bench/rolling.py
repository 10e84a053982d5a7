"""What clients notice of a change: goodput before, while and after workers are replaced, ingress replicas are replaced,
the model's type is another, a change is halted and taken back, and a node is emptied; every answer held to what it was
before.

    python -m bench.rolling --json out.json --plot docs/rolling.png
    python -m bench.rolling --only machine --quick
    python -m bench.rolling --only more --quick

Three clusters, one after the other: twice one machine's own (HAProxy), then two Ray nodes on it, one of them emptied.
Their workers compute nothing (`load_format: fake`): steps take 20 ms, as a GPU's would, and all the rest is measured.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bench.machine import Quick, announce
from bench.rolling_load import Asked, Load, questions
from bench.rolling_plot import draw

CONFIG = """\
model: demo
load_format: {load_format}
fake_step_s: 0.02
pools: {{prefill: {{workers: 1}}, decode: {{workers: 2}}}}
engine: {{memory: 64MiB}}
http: {{port: 0, replicas: {replicas}}}
grpc: {{port: 0}}
"""
TTFT_S, TPOT_S = 1.0, 0.05
COMMAND_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """[begin_s, end_s) of the load's clock; `asked` came in it."""

    cluster: str
    name: str
    begin_s: float
    end_s: float
    asked: Sequence[Asked]

    @classmethod
    def saved(cls, phase: Mapping[str, Any]) -> "Phase":
        """Of a `--json` file."""
        asked = [Asked(**one) for one in phase["asked"]]
        return cls(**{name: phase[name] for name in ("cluster", "name", "begin_s", "end_s")}, asked=asked)

    def figures(self) -> dict[str, Any]:
        ended = [one for one in self.asked if not one.error]
        ttfts = [one.ttft_s for one in ended if one.token_s]
        return {
            "cluster": self.cluster,
            "phase": self.name,
            "seconds": self.end_s - self.begin_s,
            "requests": len(self.asked),
            "failed": len(self.asked) - len(ended),
            "wrong": sum(one.is_wrong for one in self.asked),
            "goodput": sum(one.meets(TTFT_S, TPOT_S) for one in self.asked) / (self.end_s - self.begin_s),
            "ttft_p50_ms": 1e3 * statistics.median(ttfts) if ttfts else 0.0,
            "ttft_p99_ms": 1e3 * float(np.percentile(ttfts, 99)) if ttfts else 0.0,
            "errors": sorted({one.error for one in self.asked if one.error})[:3],
        }


class Cluster:
    """`baton` commands of a home of its own."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        self.config = home / "cluster.yaml"
        self._home = home
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self._env |= {"BATON_HOME": str(home), "BATON_DEBUG": "1", **env}

    async def baton(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cluster.cli", *arguments),
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        if process.returncode:
            raise RuntimeError(f"baton {' '.join(arguments)}: {process.returncode}\n{said.decode()[-3000:]}")
        return said.decode()

    def doors(self) -> tuple[str, str]:
        state = json.loads((self._home / "cluster.json").read_text())
        return state["http"], state["grpc"]

    async def up(self, *overrides: str) -> str:
        return await self.baton("up", str(self.config), *(word for one in overrides for word in ("--set", one)))


class Steps:
    """The load of one cluster, cut into phases."""

    def __init__(self, cluster: str, load: Load) -> None:
        self._cluster = cluster
        self._load = load
        self._cuts: list[tuple[str, float, float]] = []

    async def do(self, name: str, work: Any) -> None:
        begin_s = self._load.now_s
        await work
        self._cuts.append((name, begin_s, self._load.now_s))

    def phases(self) -> list[Phase]:
        return [
            Phase(
                cluster=self._cluster,
                name=name,
                begin_s=begin_s,
                end_s=end_s,
                asked=[one for one in self._load.asked if begin_s <= one.due_s < end_s],
            )
            for name, begin_s, end_s in self._cuts
        ]


@asynccontextmanager
async def loaded(name: str, cluster: Cluster, rate: float) -> AsyncIterator[Steps]:
    http, grpc = cluster.doors()
    load = Load(http, grpc, questions(16, 120, 100, 200), rate=rate)
    running = asyncio.create_task(load.run())
    while not load.asked:
        await asyncio.sleep(0.1)
        if running.done():
            running.result()
    try:
        yield Steps(name, load)
    finally:
        load.end()
        await running


async def one_machine(home: Path, load_format: str, rate: float, calm_s: float) -> list[Phase]:
    cluster = Cluster(home, {})
    cluster.config.write_text(CONFIG.format(load_format=load_format, replicas=1))
    try:
        await cluster.up()
        async with loaded("one machine", cluster, rate) as steps:
            await steps.do("before", asyncio.sleep(calm_s))
            await steps.do("workers replaced", cluster.up("engine.max_batched_tokens=256"))
            await steps.do("between", asyncio.sleep(calm_s))
            await steps.do(
                "ingress replaced", cluster.up("engine.max_batched_tokens=256", "structured.compile_timeout_s=3")
            )
            await steps.do("after", asyncio.sleep(calm_s))
        return steps.phases()
    finally:
        await cluster.baton("down")


async def more_changes(home: Path, load_format: str, rate: float, calm_s: float) -> list[Phase]:
    """Another type beside the old one; a file with which no worker comes up, and the way back; limits of the router."""
    cluster = Cluster(home, {})
    cluster.config.write_text(CONFIG.format(load_format=load_format, replicas=1))
    try:
        await cluster.up()
        async with loaded("more changes", cluster, rate) as steps:
            await steps.do("before", asyncio.sleep(calm_s))
            await steps.do("another dtype", cluster.up("dtype=float32"))
            await steps.do(
                "halted", _refused(cluster.up("dtype=float32", "engine.max_model_len=1000000000"), "is halted")
            )
            await steps.do("taken back", cluster.up("dtype=float32"))
            await steps.do("router limits", cluster.up("dtype=float32", "router.max_queue=77"))
            await steps.do("after", asyncio.sleep(calm_s))
        return steps.phases()
    finally:
        await cluster.baton("down")


async def _refused(command: Awaitable[str], why: str) -> None:
    try:
        await command
    except RuntimeError as error:
        if why in str(error):
            return
        raise
    raise RuntimeError(f"a change went through of which {why!r} was to be said")


async def two_nodes(home: Path, load_format: str, rate: float, calm_s: float) -> list[Phase]:
    from ray.cluster_utils import Cluster as RayNodes

    # In this thread: it takes signals over.
    nodes = RayNodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        other = nodes.add_node(num_cpus=2).node_id
        cluster = Cluster(home, {"RAY_ADDRESS": nodes.address})
        cluster.config.write_text(CONFIG.format(load_format=load_format, replicas=1))
        await cluster.up()
        try:
            async with loaded("two nodes", cluster, rate) as steps:
                await steps.do("before", asyncio.sleep(calm_s))
                await steps.do("node emptied", cluster.baton("drain", other))
                await steps.do("after", asyncio.sleep(calm_s))
            return steps.phases()
        finally:
            await cluster.baton("down")
    finally:
        nodes.shutdown()  # type: ignore[no-untyped-call]


SCENARIOS = {"machine": one_machine, "more": more_changes, "nodes": two_nodes}


def show(figures: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = ("cluster", "phase", "s", "requests", "failed", "wrong", "goodput/s", "TTFT p50 ms", "p99 ms")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for one in figures:
        times = (one["ttft_p50_ms"], one["ttft_p99_ms"])
        table.add_row(
            *(one["cluster"], one["phase"], f"{one['seconds']:.1f}"),
            *(str(one[name]) for name in ("requests", "failed", "wrong")),
            *(f"{one['goodput']:.2f}", *(f"{time_ms:.0f}" for time_ms in times)),
        )
    return table


def main(
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 4.0,
    calm_s: Annotated[float, typer.Option(help="Seconds before, between and after changes.")] = 15.0,
    load_format: Annotated[str, typer.Option(help="fake, or auto: the demo model itself.")] = "fake",
    only: Annotated[str, typer.Option(help="machine, more or nodes; empty: all.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
    plot: Annotated[Path | None, typer.Option()] = None,
    also: Annotated[Path | None, typer.Option(help="A --json file of an earlier run, to be drawn too.")] = None,
    quick: Quick = False,
) -> None:
    calm_s = 4.0 if quick else calm_s
    announce("bench.rolling", about_s=8 * calm_s + 120)
    phases: list[Phase] = []
    if only and only not in SCENARIOS:
        raise typer.BadParameter(f"{only!r}: give one of {', '.join(SCENARIOS)}", param_hint="--only")
    scenarios = SCENARIOS if not only else {only: SCENARIOS[only]}
    for scenario in scenarios.values():
        with tempfile.TemporaryDirectory(prefix="br", dir="/tmp") as folder:
            found = asyncio.run(scenario(Path(folder), load_format, rate, calm_s))
        Console(width=120).print(show([phase.figures() for phase in found]))
        for phase in found:
            for error in phase.figures()["errors"]:
                print(f"{phase.name}: {error}", flush=True)
        phases += found
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(phase) | {"figures": phase.figures()} for phase in phases]))
    if plot is not None:
        earlier = [Phase.saved(phase) for phase in json.loads(also.read_text())] if also is not None else []
        draw([*earlier, *phases], TTFT_S, TPOT_S, plot)


if __name__ == "__main__":
    typer.run(main)
