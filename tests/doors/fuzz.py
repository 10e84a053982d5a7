"""Sends what nobody should send to every door, and counts what becomes of it.

    python -m tests.doors.fuzz --cases 100000

Each door is a server in a process of its own, with the production's limits. A case is one HTTP request, one gRPC call
or one connection's frames. Nothing may end a server, hang, or be answered by a fault of the server's own; a good
request is answered in between and in the end. The same seed gives the same cases.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from tests.doors import messages, probes, processes
from tests.doors.grpc_door import GRPCDoor
from tests.doors.http_door import HTTPDoor
from tests.doors.messages import Make
from tests.doors.processes import ServerProcess
from workers.server import SECRET_METADATA
from workers.spec import Role

NUM_TASKS = 8
PROBE_EVERY = 2000  # cases
FAULTS = ("HANG", "500", "INTERNAL", "UNKNOWN", "DEATH", "TRACEBACK")
Case = Callable[[], Awaitable[str]]
_SHARES = {"http bodies": 0.45, "http heads": 0.05, "grpc messages": 0.25, "grpc frames": 0.05}
_INTERNAL_SHARES = {"worker": 0.09, "worker without the secret": 0.02, "draft worker": 0.06, "worker frames": 0.03}


@dataclass(slots=True)
class Outcomes:
    """Of each door: how often each word came."""

    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def num_cases(self) -> int:
        return sum(counter.total() for counter in self.counts.values())

    @property
    def faults(self) -> dict[str, int]:
        found = {f"{name}: {word}": counter[word] for name, counter in self.counts.items() for word in FAULTS}
        return {name: count for name, count in found.items() if count}

    def table(self) -> str:
        lines = [
            f"{name:26} {counter.total():7}  {', '.join(f'{word} {count}' for word, count in counter.most_common())}"
            for name, counter in self.counts.items()
        ]
        end = f"{self.num_cases} cases in {self.took_s:.0f} s, seed {self.seed}; faults: {self.faults or 'none'}"
        return "\n".join([*lines, end])


async def fuzz(num_cases: int, seed: int) -> Outcomes:
    outcomes = Outcomes(seed)
    begun_s = time.monotonic()
    with processes.ingress() as server:
        await _fuzz_ingress(server, num_cases, outcomes)
    spec = processes.worker_spec()
    with processes.worker(spec) as server:
        await _fuzz_worker(server, num_cases, outcomes)
    with processes.worker(processes.worker_spec(Role.DRAFT)) as server:
        await _fuzz_drafter(server, num_cases, outcomes)
    outcomes.took_s = time.monotonic() - begun_s
    return outcomes


async def _fuzz_ingress(server: ServerProcess, num_cases: int, outcomes: Outcomes) -> None:
    http, grpc = server.told["http"], server.told["grpc"]

    def probe() -> None:
        probes.http(http)
        probes.inference(grpc)

    run = _Run(server, probe, outcomes)
    await run.all("http bodies", _share(num_cases, "http bodies"), lambda rng: HTTPDoor(http, rng).bad_body)
    await run.all("http heads", _share(num_cases, "http heads"), lambda rng: HTTPDoor(http, rng).bad_head)
    await run.all("grpc messages", _share(num_cases, "grpc messages"), _calls(grpc, messages.INGRESS_DOORS))
    await run.all("grpc frames", _share(num_cases, "grpc frames"), _frames(grpc, messages.INGRESS_DOORS))


async def _fuzz_worker(server: ServerProcess, num_cases: int, outcomes: Outcomes) -> None:
    spec, address = processes.worker_spec(), server.told["address"]
    port, doors = int(address.rpartition(":")[2]), messages.worker_doors(spec)
    run = _Run(server, lambda: probes.worker(address, spec.secret), outcomes)
    name = "worker without the secret"
    await run.all(name, _share(num_cases, name), _calls(port, doors))
    if set(outcomes.counts[name]) - {"UNAUTHENTICATED", "closed", "reset"}:
        outcomes.counts[name]["DEATH"] += 1  # of what the secret is for
    await run.all("worker", _share(num_cases, "worker"), _calls(port, doors, spec.secret))
    await run.all("worker frames", _share(num_cases, "worker frames"), _frames(port, doors, spec.secret))


async def _fuzz_drafter(server: ServerProcess, num_cases: int, outcomes: Outcomes) -> None:
    spec, address = processes.worker_spec(Role.DRAFT), server.told["address"]
    port, doors = int(address.rpartition(":")[2]), messages.draft_doors(spec)
    run = _Run(server, lambda: probes.drafter(address, spec.secret, 512), outcomes)
    await run.all("draft worker", _share(num_cases, "draft worker"), _calls(port, doors, spec.secret))


def _share(num_cases: int, name: str) -> int:
    return max(1, round(num_cases * (_SHARES | _INTERNAL_SHARES)[name]))


def _calls(port: int, doors: dict[str, Make], secret: str = "") -> Callable[[Random], Case]:
    def open_door(rng: Random) -> Case:
        opened = {path: GRPCDoor(port, path, _metadata(secret)) for path in doors}

        async def case() -> str:
            path = rng.choice(list(doors))
            return await opened[path].call(doors[path](rng))

        return case

    return open_door


def _frames(port: int, doors: dict[str, Make], secret: str = "") -> Callable[[Random], Case]:
    def open_door(rng: Random) -> Case:
        async def case() -> str:
            path = rng.choice(list(doors))
            return await GRPCDoor(port, path, _metadata(secret)).bad_frames(doors[path](rng), rng)

        return case

    return open_door


def _metadata(secret: str) -> list[tuple[str, str]]:
    return [(SECRET_METADATA, secret)] if secret else []


@dataclass(slots=True)
class _Run:
    server: ServerProcess
    probe: Callable[[], None]
    outcomes: Outcomes
    _num_seen: int = 0  # tracebacks

    async def all(self, name: str, num_cases: int, open_door: Callable[[Random], Case]) -> None:
        counter = self.outcomes.counts[name] = Counter[str]()
        cases = [open_door(Random(f"{self.outcomes.seed}-{name}-{index}")) for index in range(NUM_TASKS)]
        left = num_cases
        while left > 0 and self.server.is_alive:
            now = min(left, PROBE_EVERY)
            left -= now
            await asyncio.gather(*(self._some(case, _part(now, at), counter) for at, case in enumerate(cases)))
            await self._probe(counter)
        counter["TRACEBACK"] += self.server.num_tracebacks - self._num_seen
        self._num_seen = self.server.num_tracebacks
        counter += Counter()  # drops what is zero

    async def _some(self, case: Case, num_cases: int, counter: Counter[str]) -> None:
        for _ in range(num_cases):
            counter[await case()] += 1

    async def _probe(self, counter: Counter[str]) -> None:
        try:
            await asyncio.to_thread(self.probe)
        except Exception as error:
            counter["DEATH"] += 1
            print(f"a good request failed: {error!r}\n{self.server.log[-4000:]}")


def _part(num_cases: int, index: int) -> int:
    return num_cases // NUM_TASKS + (index < num_cases % NUM_TASKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes = asyncio.run(fuzz(options.cases, options.seed))
    print(outcomes.table())
    raise SystemExit(bool(outcomes.faults))


if __name__ == "__main__":
    main()
