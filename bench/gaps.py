"""What clients see while HAProxy, its manager or an ingress replica is killed: requests refused, lost or cut, how long.

    python -m bench.gaps             # three kills of each, two replicas; 3 minutes
    python -m bench.gaps --quick     # one of each; 1 minute
    python -m bench.gaps --after 40  # a gap longer than the 10 s that are looked at

The cluster is a real one with workers that compute nothing. Four kinds of clients begin a request at a steady rate,
each over a connection of its own (gRPC: over one channel), and none tries again. "Refused": no connection; "lost":
ended without an answer before anything of it had come; "cut": ended after its first token.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from rich.console import Console
from rich.table import Table

import baton
from baton.errors import BatonError
from bench.machine import Quick, announce

CONFIG = "model: demo\nload_format: fake\nfake_step_s: 0.01\nhttp: {port: 0, replicas: 2}\ngrpc: {port: 0}\n"
NUM_TOKENS = 30  # 0.3 s
RATE = 10.0  # requests/s of each kind; connections at four times that
BEFORE_S = 1.5
AFTER_S = 10.0
START_S = 20.0  # of the cluster, and its end, about
BODY = {"model": "demo", "prompt": "Once", "max_tokens": NUM_TOKENS, "ignore_eos": True}
TITLES = {"replica": "ray::ServeReplica", "manager": "ray::SteadyHAProxyManager"}
KINDS = ("GET /health", "HTTP, whole", "HTTP, stream", "gRPC, stream")


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request: when it began (s, monotonic), how it ended, and how long that took."""

    begin_s: float
    outcome: str = "answered"  # | refused | lost | cut
    took_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One kill. `replaced_s`: until a new replica answered; None where none was killed."""

    victim: str
    killed_s: float
    seen: dict[str, list[Seen]]
    replaced_s: float | None


class Clients:
    """Every request over a connection of its own, but gRPC's."""

    def __init__(self, http: httpx.AsyncClient, sdk: baton.AsyncClient) -> None:
        self._http = http
        self._sdk = sdk

    async def health(self, mark: Callable[[], None]) -> None:
        (await self._http.get("/health")).raise_for_status()

    async def whole(self, mark: Callable[[], None]) -> None:
        (await self._http.post("/v1/completions", json=BODY)).raise_for_status()

    async def stream(self, mark: Callable[[], None]) -> None:
        last = ""
        async with self._http.stream("POST", "/v1/completions", json=BODY | {"stream": True}) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                mark()
                last = line or last
        if last != "data: [DONE]":
            raise httpx.RemoteProtocolError(f"the stream ended with {last!r}")

    async def grpc(self, mark: Callable[[], None]) -> None:
        async with self._sdk.stream("Once", max_tokens=NUM_TOKENS, ignore_eos=True) as deltas:
            async for _ in deltas:
                mark()


async def observed(run: Callable[[Callable[[], None]], Awaitable[None]]) -> Seen:
    seen = Seen(begin_s=time.monotonic())
    begun: list[bool] = []
    try:
        await run(lambda: begun.append(True))
    except httpx.ConnectError as error:
        seen.outcome, seen.error = "refused", str(error)
    except (httpx.HTTPError, BatonError) as error:
        seen.outcome, seen.error = "cut" if begun else "lost", f"{type(error).__name__}: {error}"
    seen.took_s = time.monotonic() - seen.begin_s
    return seen


async def load(clients: Clients, until_s: float) -> dict[str, list[Seen]]:
    runs = (clients.health, clients.whole, clients.stream, clients.grpc)

    async def steadily(run: Callable[[Callable[[], None]], Awaitable[None]], rate: float) -> list[Seen]:
        tasks = []
        while time.monotonic() < until_s:
            tasks.append(asyncio.create_task(observed(run)))
            await asyncio.sleep(1 / rate)
        return list(await asyncio.gather(*tasks))

    rates = (4 * RATE, RATE, RATE, RATE)
    found = await asyncio.gather(*(steadily(run, rate) for run, rate in zip(runs, rates, strict=True)))
    return dict(zip(KINDS, found, strict=True))


def pids(folder: Path, state: dict[str, Any], victim: str) -> list[int]:
    """Of the cluster's processes of one kind."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        if victim == "haproxy" and process.name() == "haproxy" and state["folder"] in line:
            found.append(process.pid)
        own = (process.info["environ"] or {}).get("BATON_HOME") == str(folder)
        if own and victim in TITLES and TITLES[victim] in line:
            found.append(process.pid)
    return found


async def replicas(http: httpx.AsyncClient) -> set[str]:
    """Names of those that answer for themselves."""
    try:
        text = (await http.get("/metrics")).text
    except httpx.HTTPError:
        return set()
    return {line.split('replica="')[1].split('"')[0] for line in text.splitlines() if 'replica="' in line}


async def replaced(http: httpx.AsyncClient, before: set[str], killed_s: float) -> float | None:
    while time.monotonic() < killed_s + 60:
        now = await replicas(http)
        if len(now) == len(before) and now != before:
            return time.monotonic() - killed_s
        await asyncio.sleep(0.1)
    return None


async def one_round(victim: str, folder: Path, state: dict[str, Any], after_s: float = AFTER_S) -> Round:
    """Requests for BEFORE_S, a kill, and requests for `after_s`; a dead replica is waited for."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with (
        httpx.AsyncClient(base_url=state["http"], limits=limits, timeout=60) as http,
        baton.AsyncClient(state["grpc"], timeout_s=60, max_retries=0) as sdk,
    ):
        before = await replicas(http)
        begin_s = time.monotonic()
        running = asyncio.create_task(load(Clients(http, sdk), begin_s + BEFORE_S + after_s))
        await asyncio.sleep(BEFORE_S)
        victims = await asyncio.to_thread(pids, folder, state, victim)
        killed_s = time.monotonic()
        for pid in victims if victim == "haproxy" else victims[:1]:
            os.kill(pid, signal.SIGKILL)
        waited = await replaced(http, before, killed_s) if victim == "replica" else None
        return Round(victim=victim, killed_s=killed_s, seen=await running, replaced_s=waited)


def row(kind: str, killed_s: float, seen: Sequence[Seen]) -> list[str]:
    counts = [sum(one.outcome == outcome for one in seen) for outcome in ("answered", "refused", "lost", "cut")]
    failed = [one.begin_s - killed_s for one in seen if one.outcome in ("refused", "lost")]
    last = f"{max(failed):.2f}" if failed else "-"
    longest = max((one.took_s for one in seen if one.outcome == "answered"), default=0.0)
    return [kind, *map(str, counts), last, f"{longest:.2f}"]


def show(made: Round, console: Console) -> None:
    title = f"{made.victim} killed" + (f"; a new one answered after {made.replaced_s:.1f} s" if made.replaced_s else "")
    table = Table(title=title, title_justify="left")
    for column in ("client", "answered", "refused", "lost", "cut", "last refused or lost, s", "longest answer, s"):
        table.add_column(column, justify="left" if column == "client" else "right")
    for kind, seen in made.seen.items():
        table.add_row(*row(kind, made.killed_s, seen))
    console.print(table)
    for kind, seen in made.seen.items():
        errors = {(one.outcome, one.error) for one in seen if one.error}
        for outcome, error in sorted(errors)[:4]:
            console.print(f"  {kind}, {outcome}: {error[:160]}", markup=False, highlight=False)


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Path, dict[str, Any]]]:
    """BATON_HOME, and where its cluster is."""
    with tempfile.TemporaryDirectory(prefix="bt-") as home:
        folder = Path(home)
        config = folder / "cluster.yaml"
        config.write_text(CONFIG)
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"BATON_HOME": home}
        command = [sys.executable, "-m", "cluster.cli"]
        try:
            await asyncio.to_thread(
                subprocess.run, [*command, "up", str(config)], env=env, check=True, stdout=subprocess.DEVNULL
            )
            yield folder, json.loads((folder / "cluster.json").read_text())
        finally:
            await asyncio.to_thread(subprocess.run, [*command, "down"], env=env, check=True, capture_output=True)


async def measure(runs: int, after_s: float, console: Console) -> list[Round]:
    rounds = []
    async with cluster() as (folder, state):
        for victim in ("haproxy", "manager", "replica") * runs:
            rounds.append(await one_round(victim, folder, state, after_s))
            show(rounds[-1], console)
            await asyncio.sleep(3)  # until a new replica's health is known
    return rounds


def main(
    quick: Quick = False,
    after_s: Annotated[float, typer.Option("--after", help="Seconds of requests after each kill.")] = AFTER_S,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write the counts.")] = None,
) -> None:
    """Kills HAProxy, its manager and an ingress replica of a real cluster under load."""
    runs = 1 if quick else 3
    announce("bench.gaps", about_s=START_S + 3 * runs * (BEFORE_S + after_s + 3))
    console = Console(width=120)
    rounds = asyncio.run(measure(runs, after_s, console))
    if json_path:
        found = [
            {"victim": made.victim, "replaced_s": made.replaced_s}
            | {kind: row(kind, made.killed_s, seen)[1:] for kind, seen in made.seen.items()}
            for made in rounds
        ]
        json_path.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
