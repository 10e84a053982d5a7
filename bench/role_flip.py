"""What a change of role costs while answers are written: one worker to and fro under an even load.

python -m bench.role_flip                            # a minute and a half of demo, 1 prefill + 2 decode workers
python -m bench.role_flip --quick
python -m bench.role_flip --plot docs/role_flip.png

Prints of each change how long it took, how many answers were written then, went on elsewhere, and how long they paused,
and how long the machine itself stood still in those seconds (`bench.stalls`);
and of the spans before and after: requests that were served within the targets (goodput), tokens a second, and requests
that failed.
Afterwards some requests are asked again, all at once and with no change of role: their tokens must be the same.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import baton
from bench.machine import Quick, announce
from bench.stalls import Stalls
from workers.spec import Role

CONFIG = """\
model: {model}
dtype: float32
pools: {{prefill: {{workers: 1}}, decode: {{workers: 2}}}}
engine: {{memory: 256MiB, max_batched_tokens: 256}}
router: {{disaggregate_over_tokens: 32, max_retries: 0}}
http: {{port: 0}}
grpc: {{port: 0}}
"""
WORKER = "decode-1"
ROLES = (Role.PREFILL, Role.DECODE)  # in turn
AROUND_S = 5.0  # of a change, from its beginning on
NUM_AGAIN = 40
TEXT = "the king of a far country had three sons and one of them went out to seek his fortune by the sea at night"


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request: seconds from the run's start."""

    prompt: str
    max_tokens: int
    seed: int
    due_s: float
    sent_s: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    error: str = ""

    def is_good(self, ttft_s: float, tpot_s: float) -> bool:
        if self.error or not self.token_s:
            return False
        gap_s = (self.token_s[-1] - self.token_s[0]) / max(len(self.token_s) - 1, 1)
        return self.token_s[0] - self.due_s <= ttft_s and gap_s <= tpot_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    at_s: float  # when the controller was asked
    role: Role
    took_s: float  # as the worker says: from the order to its first report in the new role
    num_moved: int
    asked_s: float  # until the controller had answered
    stood_s: float = 0.0  # that the machine itself stood still until `AROUND_S` later


def load(rate: float, duration_s: float, seed: int) -> list[Asked]:
    """Arrivals by lot; greedy and sampled, short and long."""
    rng, words, at_s = random.Random(seed), TEXT.split(), 0.0
    asked: list[Asked] = []
    while (at_s := at_s + rng.expovariate(rate)) < duration_s:
        num_words = rng.choice((10, 40, 120, 300))
        prompt = " ".join(rng.choice(words) for _ in range(num_words))
        asked.append(Asked(prompt=prompt, max_tokens=rng.choice((40, 120, 300)), seed=len(asked), due_s=at_s))
    return asked


async def ask(client: baton.AsyncClient, one: Asked, start_s: float) -> None:
    temperature = 0.8 if one.seed % 2 else 0.0
    try:
        one.sent_s = time.monotonic() - start_s
        options: dict[str, Any] = {"temperature": temperature, "seed": one.seed, "ignore_eos": True}
        async for delta in client.stream(one.prompt, max_tokens=one.max_tokens, **options):
            one.token_ids += delta.token_ids
            one.token_s += [time.monotonic() - start_s] * len(delta.token_ids)
    except baton.BatonError as error:
        one.error = f"{error.code}: {error.message}"


async def ask_all(client: baton.AsyncClient, load_: Sequence[Asked], start_s: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        for one in load_:
            await asyncio.sleep(max(start_s + one.due_s - time.monotonic(), 0.0))
            tasks.create_task(ask(client, one, start_s))


class Cluster:
    """In a folder of its own, which is this process's BATON_HOME from then on."""

    def __init__(self, folder: Path, model: str) -> None:
        os.environ["BATON_HOME"] = str(folder)
        self._config = folder / "cluster.yaml"
        self._config.write_text(CONFIG.format(model=model))
        self._state = folder / "cluster.json"

    def baton(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True, stdout=subprocess.PIPE)

    def up(self) -> str:
        """Where its gRPC API is."""
        self.baton("up", str(self._config))
        state: dict[str, str] = json.loads(self._state.read_text())
        return state["grpc"]


class Controller:
    """Of that cluster, asked by a process beside."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "bench.role_flip_side"]
        self._side = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask("")

    def change(self, role: Role, start_s: float) -> Change:
        at_s = time.monotonic() - start_s
        took_s, num_moved = self._ask(f"{WORKER} {role}\n").split()
        asked_s = time.monotonic() - start_s - at_s
        return Change(at_s=at_s, role=role, took_s=float(took_s), num_moved=int(num_moved), asked_s=asked_s)

    def close(self) -> None:
        self._side.communicate()

    def _ask(self, line: str) -> str:
        assert self._side.stdin is not None
        assert self._side.stdout is not None
        self._side.stdin.write(line)
        self._side.stdin.flush()
        return self._side.stdout.readline()


async def run(
    controller: Controller, target: str, asked: Sequence[Asked], every_s: float, duration_s: float
) -> list[Change]:
    """All changes that were made while the load ran; then some requests are asked again and compared."""
    changes: list[Change] = []
    async with baton.AsyncClient(target) as client:
        start_s = time.monotonic()
        with Stalls() as stalls:
            loading = asyncio.create_task(ask_all(client, asked, start_s))
            for number in range(1, int(duration_s / every_s)):
                await asyncio.sleep(max(start_s + number * every_s - time.monotonic(), 0.0))
                changes.append(await asyncio.to_thread(controller.change, ROLES[(number - 1) % 2], start_s))
            await loading
        times_s = [start_s + one.at_s for one in changes]
        stood_s = [stalls.within(at_s, at_s + AROUND_S) for at_s in times_s]
        changes = [replace(one, stood_s=stood) for one, stood in zip(changes, stood_s, strict=True)]
        some = random.Random(1).sample(list(asked), min(NUM_AGAIN, len(asked)))
        again = [Asked(prompt=one.prompt, max_tokens=one.max_tokens, seed=one.seed, due_s=0.0) for one in some]
        await ask_all(client, again, time.monotonic())
        for one, other in zip(some, again, strict=True):
            assert one.error or other.token_ids == one.token_ids, f"other tokens the second time: {one.prompt[:40]}"
    return changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Requests that were due in it, per second, and tokens that came in it."""

    name: str
    goodput: float
    tokens: float
    num_failed: int


def span(asked: Sequence[Asked], name: str, begins_s: Sequence[float], slo: tuple[float, float]) -> Span:
    """All stretches of `AROUND_S` from the given times on, as one."""

    def is_in(at_s: float) -> bool:
        return any(begin_s <= at_s < begin_s + AROUND_S for begin_s in begins_s)

    seconds = AROUND_S * len(begins_s)
    due = [one for one in asked if is_in(one.due_s)]
    return Span(
        name=name,
        goodput=sum(one.is_good(*slo) for one in due) / seconds,
        tokens=sum(is_in(at_s) for one in asked for at_s in one.token_s) / seconds,
        num_failed=sum(bool(one.error) for one in due),
    )


def spans(asked: Sequence[Asked], changes: Sequence[Change], slo: tuple[float, float]) -> Iterator[Span]:
    for role in ROLES:
        times_s = [one.at_s for one in changes if one.role is role]
        if times_s:
            yield span(asked, f"{AROUND_S:g} s before a change to {role}", [at_s - AROUND_S for at_s in times_s], slo)
            yield span(asked, f"{AROUND_S:g} s from it on", times_s, slo)


def pauses_s(asked: Sequence[Asked], at_s: float) -> list[float]:
    """Of each answer that was being written at that time, the longest gap between two tokens that came after it."""
    going = [one for one in asked if one.token_s and one.token_s[0] < at_s < one.token_s[-1]]
    return sorted(
        max(after - before for before, after in pairwise(one.token_s) if at_s < after and before < at_s + AROUND_S)
        for one in going
    )


def show(asked: Sequence[Asked], changes: Sequence[Change], slo: tuple[float, float]) -> None:
    console = Console()
    table = Table(title=f"changes of {WORKER} under load")
    for heading in (
        "at, s",
        "to",
        "worker, ms",
        "all, ms",
        "written",
        "moved",
        "longest pause p50, max, ms",
        "stood still, ms",
    ):
        table.add_column(heading, justify="right")
    for one in changes:
        found = pauses_s(asked, one.at_s) or [0.0]
        times = (f"{1000 * one.took_s:.0f}", f"{1000 * one.asked_s:.0f}")
        pauses = f"{1000 * found[len(found) // 2]:.0f}, {1000 * found[-1]:.0f}"
        table.add_row(
            f"{one.at_s:.0f}",
            one.role,
            *times,
            str(len(found)),
            str(one.num_moved),
            pauses,
            f"{1000 * one.stood_s:.0f}",
        )
    console.print(table)
    table = Table(title=f"goodput: first token within {slo[0]:g} s, then {1000 * slo[1]:g} ms a token")
    for heading in ("span", "requests/s in time", "tokens/s", "failed"):
        table.add_column(heading, justify="right")
    for part in spans(asked, changes, slo):
        table.add_row(part.name, f"{part.goodput:.2f}", f"{part.tokens:.0f}", str(part.num_failed))
    console.print(table)


def draw(asked: Sequence[Asked], changes: Sequence[Change], duration_s: float, path: Path) -> None:
    """Tokens in each second, and how long each request waited for its first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.hist([at_s for one in asked for at_s in one.token_s], bins=range(int(duration_s) + 2), color="#9dc3e6")
    above.set(ylabel="tokens in a second", title=f"{WORKER} reads prompts in the shaded spans")
    begun = [one for one in asked if one.token_s]
    below.plot([one.due_s for one in begun], [one.token_s[0] - one.due_s for one in begun], ".", color="#1f4e79")
    below.set(ylabel="s to the first token", xlabel="s", ylim=(0, None))
    for axes in (above, below):
        for change, after in zip(changes, [*changes[1:], None], strict=True):
            if change.role == ROLES[0]:
                axes.axvspan(change.at_s, after.at_s if after else duration_s, color="#fce4d6", zorder=0)
    figure.savefig(path, dpi=100)


def main(
    model: Annotated[str, typer.Option(help="That is served.")] = "demo",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 3.0,
    ttft_s: Annotated[float, typer.Option(min=0.0, help="Target of goodput.")] = 2.0,
    tpot_ms: Annotated[float, typer.Option(min=0.0, help="Target of goodput.")] = 150.0,
    quick: Quick = False,
    plot: Annotated[Path | None, typer.Option(help="Where to draw it.")] = None,
) -> None:
    """Serves, loads, and changes one worker's role every ten seconds."""
    duration_s, every_s, slo = 30.0 if quick else 90.0, 10.0, (ttft_s, tpot_ms / 1000.0)
    announce("bench.role_flip", about_s=duration_s + 60.0, dtypes=("float32",))
    asked = load(rate, duration_s, seed=1)
    with tempfile.TemporaryDirectory(prefix="bt-") as folder:
        cluster = Cluster(Path(folder), model)
        try:
            target, controller = cluster.up(), Controller()
            changes = asyncio.run(run(controller, target, asked, every_s, duration_s))
            controller.close()
        finally:
            cluster.baton("down")
    show(asked, changes, slo)
    num_failed = sum(bool(one.error) for one in asked)
    print(f"{len(asked)} requests, {num_failed} failed; {min(NUM_AGAIN, len(asked))} asked again: the same tokens")
    if plot is not None:
        draw(asked, changes, duration_s, plot)
        print(f"drawn to {plot}")
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    typer.run(main)
