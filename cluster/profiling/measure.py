"""Runs real workers, has them compute what the scenarios ask for, and takes down what each step took.

Steps are measured on one worker, behind its own stream and a dispatcher as production has them. Each KV transport has a
prefill worker of its own that hands over to that same worker, and one more computes beside it, to see what they cost
each other. All are pinned as their pools' workers would be; this process goes where the system puts it, as an ingress
would: what it takes of the measured worker's core is in the figures.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.contracts.overheads import ALONE, Contention
from cluster.profiling.local_cluster import LocalCluster, WorkerProcess, greedy
from cluster.profiling.neighbours import Beside, contention
from cluster.profiling.points import NotedStep, Round, StepPoint, TransferPoint, step_points, transfer_points
from cluster.profiling.running import REQUEST_TIMEOUT_S, ask, dispatching, profiled_workers, taken
from cluster.profiling.scenarios import Scenario, ScenarioRequest, WorkerLimits, scenarios
from cluster.profiling.side_by_side import beside_each_other, receiving
from cluster.profiling.specs import available_cores
from workers.spec import GangSpec, Role, SpeculationSpec, WorkerSpec

MEASURED = "decode-0"
NEIGHBOUR = "mixed-0"
QUIET_S = 0.02  # after a hand-over: acks, and what the workers tidy up
PAUSE_S = 0.03  # before a prompt that is measured alone: most find their worker idle, and its caches cold
HANDED_TOKENS = (64, 128, 256)  # prompts of one step, in which a hand-over's work on the prefill worker shows
MAX_BATCHED_TOKENS = 2048  # steps of up to so many tokens are measured, whatever the config's own budget


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureEffort:
    """How much to measure: `num_rounds` of everything, fewer when `budget_s` is over before (the first is whole)."""

    quick: bool
    num_rounds: int
    budget_s: float  # from the workers' start on


QUICK = MeasureEffort(quick=True, num_rounds=3, budget_s=26.0)
FULL = MeasureEffort(quick=False, num_rounds=5, budget_s=90.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureProgress:
    """What a display is told, if there is one."""

    phase: Callable[[str, int], None]  # a phase of so many parts begins
    advance: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    facts: dict[str, Any]  # as `workers.profiled.facts`
    steps: list[StepPoint]
    transfers: list[TransferPoint]
    to_worker_s: float  # from the caller to the worker's step
    to_client_s: float  # from the end of a step to the caller
    handover_s: float  # what a step of a prompt takes longer that is handed over
    receive_s: float  # what decode steps take longer for each prompt that comes
    contention: Contention
    start_s: float  # until all workers served, side by side
    waited: float  # share of its steps' time that the measured worker waited for a core, over all rounds
    num_rounds: int
    rounds: list[Round]


def measure(
    ranks: Sequence[WorkerSpec],
    *,
    transports: Sequence[str],
    cores: Sequence[int],
    effort: MeasureEffort,
    progress: MeasureProgress,
) -> Measured:
    """Of workers like the one of `ranks`.

    Args:
        ranks: Of the measured worker, the leader first.
        cores: Of the other workers, which hand over, or compute beside the measured one; empty: there are none.

    Raises:
        UnavailableError: A worker did not start, or failed a request.
    """
    return asyncio.run(_measure(ranks, transports, tuple(cores), effort, progress))


async def _measure(
    ranks: Sequence[WorkerSpec],
    transports: Sequence[str],
    cores: tuple[int, ...],
    effort: MeasureEffort,
    progress: MeasureProgress,
) -> Measured:
    spec, measured = ranks[0], as_measured(ranks)
    plain = replace(measured[0], gang=GangSpec(), cores=cores, num_threads=len(cores))
    sender = replace(plain, role=Role.PREFILL)
    senders = [
        replace(sender, worker_id=f"prefill-{name}", kv=replace(spec.kv, transport=name, push="bulk"))
        for name in transports
    ]
    progress.phase("starting workers", 1)
    began_s = time.monotonic()
    beside = replace(plain, worker_id=NEIGHBOUR, role=Role.MIXED)
    shares_machine = bool(cores) and spec.device == "cpu"
    async with profiled_workers([*measured, *senders, *([beside] if shares_machine else [])]) as workers:
        session = _Session(workers, progress, effort, start_s=time.monotonic() - began_s)
        await session.steps()
        for name in transports:
            await session.transfers(name)
        if shares_machine:
            await session.side_by_side(len(available_cores()) // len(cores))
        if transports:
            await session.handovers(transports[0])
        return session.measured()


def as_measured(ranks: Sequence[WorkerSpec]) -> list[WorkerSpec]:
    """The worker of `ranks`, set up so that all can be measured of it: without drafts, whose steps are of no kind."""
    engine = ranks[0].engine
    engine = replace(
        engine,
        max_batched_tokens=max(engine.max_batched_tokens, MAX_BATCHED_TOKENS),
        chunked_prefill=True,
        prefix_cache=True,
    )
    changes: dict[str, Any] = {"engine": engine, "speculation": SpeculationSpec(method="none")}
    return [replace(rank, worker_id=MEASURED, role=Role.DECODE, **changes) for rank in ranks]


class _Session:
    def __init__(
        self, workers: dict[str, WorkerProcess], progress: MeasureProgress, effort: MeasureEffort, start_s: float
    ) -> None:
        self._workers = workers
        self._worker = workers[MEASURED]
        self._progress = progress
        self._effort = effort
        self._start_s = start_s
        self._deadline_s = time.monotonic() - start_s + effort.budget_s
        self._rng = np.random.default_rng(0)
        self._rounds: list[Round] = []
        self._transfers: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._handovers_s: list[float] = []
        self._receives_s: list[float] = []
        self._contention = ALONE
        self._to_worker_s: list[float] = []
        self._to_client_s: list[float] = []

    @property
    def _limits(self) -> WorkerLimits:
        facts, engine = self._worker.facts, self._worker.spec.engine
        return WorkerLimits(
            max_model_len=facts["max_model_len"],
            num_kv_tokens=facts["num_blocks"] * engine.block_size,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            block_size=engine.block_size,
        )

    async def steps(self) -> None:
        """All scenarios, round by round, so that a slow moment of the machine meets them all."""
        plan = scenarios(self._limits, quick=self._effort.quick)
        self._progress.phase("steps", len(plan) * self._effort.num_rounds)
        async with dispatching([self._worker], disaggregate_over_tokens=0) as cluster:
            await self._run(cluster, plan[3])  # what first steps pay for
            await self._taken()
            for number in range(self._effort.num_rounds):
                for scenario in plan:
                    if number and time.monotonic() > self._deadline_s:
                        return
                    await self._round(cluster, scenario)
                    self._progress.advance()

    async def _round(self, cluster: LocalCluster, scenario: Scenario) -> None:
        is_alone = len(scenario.waves) == len(scenario.waves[0]) == 1
        if is_alone:
            await asyncio.sleep(PAUSE_S)
        sent_s, arrived_s = await self._run(cluster, scenario)
        steps, waited_s = await self._taken()
        in_steps_s = sum(step.ended_s - step.began_s for step in steps)
        self._rounds.append(Round(scenario=scenario.name, steps=tuple(steps), waited=waited_s / max(in_steps_s, 1e-9)))
        if is_alone:
            self._to_worker_s.append(steps[0].began_s - sent_s)
            self._to_client_s.append(arrived_s - steps[-1].ended_s)

    async def _run(self, cluster: LocalCluster, scenario: Scenario) -> tuple[float, float]:
        """When the first request left and the last token came, as this process saw it."""
        prefix = self._tokens(self._limits.max_model_len)
        tasks: list[asyncio.Task[float]] = []
        sent_s = time.monotonic()
        for wave in scenario.waves:
            begun = [asyncio.Event() for _ in wave]
            tasks += [
                asyncio.create_task(self._answer(cluster, request, prefix, event))
                for request, event in zip(wave, begun, strict=True)
            ]
            await _all_begun(begun, tasks)
        return sent_s, max(await asyncio.gather(*tasks))

    async def _answer(
        self, cluster: LocalCluster, request: ScenarioRequest, prefix: list[int], begun: asyncio.Event
    ) -> float:
        prompt = prefix[: request.num_prefix_tokens] + self._tokens(
            request.num_prompt_tokens - request.num_prefix_tokens
        )
        arrived_s = 0.0
        async for _ in cluster.generate(prompt, greedy(request.num_outputs), REQUEST_TIMEOUT_S):
            arrived_s = time.monotonic()
            begun.set()
        return arrived_s

    async def transfers(self, transport: str) -> None:
        """Bulk hand-overs of several sizes: what lies between the prompt's last step and the first one after it."""
        sender = self._workers[f"prefill-{transport}"]
        sizes = _sizes(self._limits, quick=self._effort.quick)
        num_rounds = 3 if self._effort.quick else 5
        self._progress.phase(f"KV over {transport}", len(sizes) * num_rounds)
        async with dispatching([sender, self._worker], disaggregate_over_tokens=0) as cluster:
            for number in range(num_rounds + 1):
                for num_tokens in sizes:
                    took_s = await self._transfer(cluster, sender, num_tokens)
                    if number:  # the first one opens the link
                        self._transfers[transport, handed_bytes(self._worker.facts, num_tokens)].append(took_s)
                        self._progress.advance()

    async def _transfer(self, cluster: LocalCluster, sender: WorkerProcess, num_tokens: int) -> float:
        await self._ask(cluster, num_tokens, num_outputs=3)
        read, _ = await taken(sender)
        written, _ = await self._taken()
        return written[0].began_s - read[-1].ended_s

    async def side_by_side(self, workers_per_machine: int) -> None:
        num_rounds = 2 if self._effort.quick else 8
        self._progress.phase("side by side", num_rounds)
        found: list[Beside] = []
        for _ in range(num_rounds):
            found += await beside_each_other(self._worker, self._workers[NEIGHBOUR], self._tokens)
            self._progress.advance()
        self._contention = contention(found, workers_per_machine)

    async def handovers(self, transport: str) -> None:
        """The same prompts read with a hand-over, and by the measured worker for itself; one after the other."""
        sender = self._workers[f"prefill-{transport}"]
        num_rounds = 4 if self._effort.quick else 8
        sizes = [size for size in HANDED_TOKENS if size < self._limits.max_model_len * 7 // 8]
        self._progress.phase("hand-overs", (len(sizes) + 1) * num_rounds)
        async with (
            dispatching([sender, self._worker], disaggregate_over_tokens=0) as handing_over,
            dispatching([self._worker], disaggregate_over_tokens=0) as alone,
        ):
            for _ in range(num_rounds):
                for num_tokens in sizes:
                    took_s = []
                    for cluster, worker in ((alone, self._worker), (handing_over, sender)):
                        await self._ask(cluster, num_tokens, num_outputs=3)
                        steps, _ = await taken(worker)
                        took_s.append(steps[0].ended_s - steps[0].began_s)
                    await self._taken()
                    self._handovers_s.append(took_s[1] - took_s[0])
                    self._progress.advance()
        for _ in range(num_rounds):
            self._receives_s.append(await receiving(sender, self._worker, self._contention.decodes, self._tokens))
            self._progress.advance()

    async def _ask(self, cluster: LocalCluster, num_tokens: int, num_outputs: int) -> None:
        await ask(cluster, self._tokens(num_tokens), num_outputs)
        await asyncio.sleep(QUIET_S)

    async def _taken(self) -> tuple[list[NotedStep], float]:
        return await taken(self._worker)

    def _tokens(self, count: int) -> list[int]:
        tokens: list[int] = self._rng.integers(1, self._worker.facts["vocab_size"], count).tolist()
        return tokens

    def measured(self) -> Measured:
        in_steps_s = [sum(step.ended_s - step.began_s for step in one.steps) for one in self._rounds]
        waited_s = sum(one.waited * s for one, s in zip(self._rounds, in_steps_s, strict=True))
        return Measured(
            facts=self._worker.facts,
            steps=step_points(self._rounds),
            transfers=transfer_points(self._transfers),
            to_worker_s=statistics.median(self._to_worker_s),
            to_client_s=statistics.median(self._to_client_s),
            handover_s=max(statistics.median(self._handovers_s), 0.0) if self._handovers_s else 0.0,
            receive_s=statistics.median(self._receives_s) if self._receives_s else 0.0,
            contention=self._contention,
            start_s=self._start_s,
            waited=waited_s / sum(in_steps_s),
            num_rounds=-(-len(self._rounds) // len({one.scenario for one in self._rounds})),
            rounds=self._rounds,
        )


def handed_bytes(facts: Mapping[str, Any], num_tokens: int) -> int:
    """What goes over of a sequence of `num_tokens`: KV of each token, and its state once."""
    return num_tokens * int(facts["token_bytes"]) + int(facts["state_bytes"])


async def _all_begun(begun: Sequence[asyncio.Event], tasks: Sequence[asyncio.Task[float]]) -> None:
    """Returns when all events are set; a task that fails before raises here."""
    while not all(event.is_set() for event in begun):
        next_one = asyncio.create_task(next(event for event in begun if not event.is_set()).wait())
        running = [task for task in tasks if not task.done()]
        await asyncio.wait([next_one, *running], return_when=asyncio.FIRST_COMPLETED)
        next_one.cancel()
        for task in tasks:
            if task.done():
                task.result()


def _sizes(limits: WorkerLimits, *, quick: bool) -> list[int]:
    """Prompts in tokens."""
    longest = limits.max_model_len * 7 // 8
    return sorted({min(size, longest) for size in ((128, 1024, longest) if quick else (64, 256, 512, 1024, longest))})
