"""Two engines joined by an in-process link, on clocks that models move, beside simulated prefill and decode workers."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import SimCluster, SimResult, TimelineSpan
from cluster.simulator.world import simulate
from tests.local_link import local_pair
from tests.simulation.test_against_engine import BLOCK_SIZE, Load, TimedRunner, submit_message
from tests.unit.engine.driver import Clock
from tests.unit.engine.stateful_fake import StatefulFakeRunner
from workers.engine.engine import Engine, StepReport
from workers.kv_transfer.link import Acked, Arrived, Inbox, InboxEvent, Offered, Outbox, OutboxEvent, TransferKey
from workers.model.contract import Batch, ChunkKind, Sampled
from workers.model.fake import NUM_LAYERS
from workers.model.fake_store import TOKEN_NBYTES
from workers.spec import EngineSpec, Role, WorkerSpec

FOREVER = float("inf")
LINK_TIMEOUT_S = 20.0  # of real time, for the link's threads
EXACT = 1e-9
NUM_DECODE_BLOCKS = 400  # nobody is preempted there: that would take an ingress


@dataclass
class Handovers:
    """When, on the engines' clocks, what was said of each; the link's threads take real time, and none of theirs."""

    offered_s: dict[TransferKey, float] = field(default_factory=dict)
    granted_s: dict[TransferKey, float] = field(default_factory=dict)
    completed_s: dict[TransferKey, float] = field(default_factory=dict)

    def arrived_s(self) -> dict[TransferKey, float]:
        """By time: those that have a ticket, and all of whose KV is pushed."""
        both = {
            key: max(at_s, self.completed_s[key]) for key, at_s in self.granted_s.items() if key in self.completed_s
        }
        return dict(sorted(both.items(), key=lambda item: item[1]))


class Due:
    """Events of one kind: each is seen when its time has come on the clock of the engine that polls, and not before."""

    def __init__(self, poll: Callable[[], Sequence[Any]], kinds: tuple[type, ...]) -> None:
        self._poll = poll
        self._kinds = kinds
        self._early: dict[tuple[type, TransferKey], Any] = {}
        self._seen: set[tuple[type, TransferKey]] = set()

    def next_s(self, kind: type, times_s: dict[TransferKey, float]) -> float:
        return min((at_s for key, at_s in times_s.items() if (kind, key) not in self._seen), default=FOREVER)

    def take(self, kind: type, times_s: dict[TransferKey, float], now_s: float) -> list[Any]:
        wanted = [(kind, key) for key, at_s in times_s.items() if at_s <= now_s and (kind, key) not in self._seen]
        give_up_s = time.monotonic() + LINK_TIMEOUT_S
        while any(name not in self._early for name in wanted):
            for event in self._poll():
                if isinstance(event, self._kinds):
                    self._early[type(event), event.key] = event
            assert time.monotonic() < give_up_s, f"the link never told of {wanted}"
            time.sleep(0.0002)
        self._seen.update(wanted)
        return [self._early.pop(name) for name in wanted]


class TimedOutbox:
    """`link.Outbox`: notes when the engine offers and completes."""

    def __init__(self, outbox: Outbox, clock: Clock, handovers: Handovers) -> None:
        self.computed, self.abort, self.close = outbox.computed, outbox.abort, outbox.close
        self.bytes_sent = self.num_failed = 0
        self._outbox = outbox
        self._clock = clock
        self._handovers = handovers
        self._due = Due(outbox.poll, (Acked,))

    def offer(self, key: TransferKey, *rest: Any) -> None:
        self._handovers.offered_s[key] = self._clock.now_s
        self._outbox.offer(key, *rest)

    def complete(self, key: TransferKey, *rest: Any) -> None:
        self._handovers.completed_s[key] = self._clock.now_s
        self._outbox.complete(key, *rest)

    def poll(self) -> list[OutboxEvent]:
        return self._due.take(Acked, self._handovers.arrived_s(), self._clock.now_s)

    def next_s(self) -> float:
        return self._due.next_s(Acked, self._handovers.arrived_s())


class TimedInbox:
    """`link.Inbox`: notes when the engine grants."""

    def __init__(self, inbox: Inbox, clock: Clock, handovers: Handovers) -> None:
        self.refuse, self.abort, self.close = inbox.refuse, inbox.abort, inbox.close
        self.bytes_received = self.num_failed = 0
        self.arrived: list[int] = []  # requests, as they join the batch
        self._inbox = inbox
        self._clock = clock
        self._handovers = handovers
        self._due = Due(inbox.poll, (Offered, Arrived))

    def grant(self, key: TransferKey, *rest: Any) -> None:
        self._handovers.granted_s[key] = self._clock.now_s
        self._inbox.grant(key, *rest)

    def poll(self) -> list[InboxEvent]:
        offered = self._due.take(Offered, self._handovers.offered_s, self._clock.now_s)
        arrived = self._due.take(Arrived, self._handovers.arrived_s(), self._clock.now_s)
        self.arrived += [int(event.key.request_id) for event in arrived]
        return offered + arrived

    def next_s(self) -> float:
        handovers = self._handovers
        return min(self._due.next_s(Offered, handovers.offered_s), self._due.next_s(Arrived, handovers.arrived_s()))


@dataclass(frozen=True)
class Step:
    start_s: float
    end_s: float
    num_prompts: int
    num_decodes: int


class NotedRunner(TimedRunner):
    """Keeps its steps."""

    def __init__(self, spec: WorkerSpec, clock: Clock) -> None:
        super().__init__(spec, clock)
        self.steps: list[Step] = []

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        num_decodes = sum(chunk.kind is ChunkKind.DECODE for chunk in batch.chunks)
        start_s = self._clock.now_s
        sampled = super().run(batch, on_layer)
        self.steps.append(Step(start_s, self._clock.now_s, len(batch.chunks) - num_decodes, num_decodes))
        return sampled


class NotedStates(NotedRunner, StatefulFakeRunner):
    """Of a model that keeps a state of each sequence."""


class Split:
    """The two engines; whichever comes first on its clock does the next step, prefill before decode."""

    def __init__(self, load: Load) -> None:
        self.times_s: dict[int, list[float]] = defaultdict(list)
        self.cached: dict[int, int] = {}
        self.handovers = Handovers()
        self.clocks = [Clock(), Clock()]
        self.runners: list[NotedRunner] = []
        self.engines: list[Engine] = []
        for role, clock, num_blocks in zip(
            (Role.PREFILL, Role.DECODE), self.clocks, (load.num_blocks, NUM_DECODE_BLOCKS), strict=True
        ):
            clock.now_s = 0.0
            spec = worker_spec(role, load.engine, num_blocks)
            self.runners.append(NotedStates(spec, clock) if load.keeps_states else NotedRunner(spec, clock))
            self.engines.append(Engine(runner=self.runners[-1], spec=spec, emit=self._emit(clock), clock=clock))
        outbox, inbox = local_pair(self.runners[0].store, self.runners[1].store)
        self.outbox = TimedOutbox(outbox, self.clocks[0], self.handovers)
        self.inbox = TimedInbox(inbox, self.clocks[1], self.handovers)
        self.engines[0].connect(self.outbox, None)
        self.engines[1].connect(None, self.inbox)
        self._waiting = list(enumerate(load.arrivals))
        self._load = load

    def _emit(self, clock: Clock) -> Callable[[StepReport], None]:
        def emit(report: StepReport) -> None:
            for output in (output for outputs in report.outputs.values() for output in outputs):
                assert not output.error.code, output.error.message
                index = int(output.request_id)
                self.times_s[index] += [clock.now_s] * len(output.token_ids)
                if output.index == 0:
                    self.cached[index] = output.num_cached_tokens

        return emit

    def run(self) -> None:
        is_busy = [False, False]
        while True:
            next_s = [
                clock.now_s if busy else max(clock.now_s, news_s)
                for clock, busy, news_s in zip(self.clocks, is_busy, self._news_s(), strict=True)
            ]
            first = next_s.index(min(next_s))
            if next_s[first] == FOREVER:
                break
            self.clocks[first].now_s = next_s[first]
            if first == 0:
                self._submit(next_s[0])
            is_busy[first] = self.engines[first].step()
        for engine in self.engines:
            assert engine.is_idle
            engine.blocks.check_integrity()

    def _news_s(self) -> tuple[float, float]:
        arrival_s = self._waiting[0][1].at_s if self._waiting else FOREVER
        return min(arrival_s, self.outbox.next_s()), self.inbox.next_s()

    def _submit(self, now_s: float) -> None:
        while self._waiting and self._waiting[0][1].at_s <= now_s:
            index, arrival = self._waiting.pop(0)
            submit = submit_message(index, self._load.prompts[index], arrival.num_output_tokens)
            submit.decode.worker_id = "decode-0"
            self.engines[0].submit("ingress", submit)

    def close(self) -> None:
        self.outbox.close()
        self.inbox.close()


def worker_spec(role: Role, engine: EngineConfig, num_blocks: int) -> WorkerSpec:
    return WorkerSpec(
        worker_id=f"{role}-0",
        role=role,
        model="fake",
        served_name="fake",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(
            block_size=BLOCK_SIZE,
            memory_bytes=num_blocks * NUM_LAYERS * BLOCK_SIZE * TOKEN_NBYTES,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            prefix_cache=engine.prefix_cache,
            chunked_prefill=engine.chunked_prefill,
        ),
    )


def simulated(load: Load) -> SimResult:
    pools = [
        load.pool(role, num_blocks)
        for role, num_blocks in ((Role.PREFILL, load.num_blocks), (Role.DECODE, NUM_DECODE_BLOCKS))
    ]
    cluster = SimCluster(pools=pools, engine=load.engine, router=RouterConfig(disaggregate_over_tokens=0))
    return simulate(cluster, load.arrivals, check_every=1, spans=True)


def passed(result: SimResult, kind: str) -> list[int]:
    """Requests in the order in which they were through with it."""
    return [int(span.lane.split()[1]) for span in result.spans if span.kind == kind and span.lane.startswith("request")]


def check_steps(spans: Sequence[TimelineSpan], steps: Sequence[Step]) -> None:
    """Each span of a worker is one step, or as many decode steps of the same sequences as it lasts."""
    left: Iterator[Step] = iter(steps)
    for span in spans:
        step = next(left)
        assert step.start_s == pytest.approx(span.start_s, abs=EXACT)
        of_span = [step]
        while of_span[-1].end_s < span.end_s - EXACT:
            of_span.append(next(left))
        assert of_span[-1].end_s == pytest.approx(span.end_s, abs=EXACT)
        assert len(of_span) == 1 or span.kind == "decode"
        for step in of_span:
            kind = "mixed" if step.num_prompts and step.num_decodes else "prefill" if step.num_prompts else "decode"
            assert (kind, step.num_prompts + step.num_decodes) == (span.kind, span.num_sequences)
    assert list(left) == []


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked_prefill", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_simulated_split_keeps_the_engines_times(seed: int, chunked_prefill: bool, prefix_cache: bool) -> None:
    """Compared, within 1e-9 s: when each step of either worker begins and ends, and how many prompts and sequences it
    computes; the order in which prefill admits prompts and in which decode takes them in, of those that had to wait for
    it; when each request's first and last token come; what of its prompt prefill had cached.

    Not compared: what transfers take, for in both worlds they take no time (the link's threads do, but events are
    held back or waited for until the engines' clocks say that they are due); the order within one message of the
    link's own events; leases, aborts and errors; preemption at decode, which takes an ingress to start anew.
    """
    engine = EngineConfig(
        block_size=BLOCK_SIZE,
        max_batched_tokens=48,
        max_sequences=8,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked_prefill,
    )
    check_split(Load(seed, engine))


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_simulated_split_of_a_model_with_states_keeps_the_engines_times(seed: int, prefix_cache: bool) -> None:
    engine = EngineConfig(block_size=BLOCK_SIZE, max_batched_tokens=48, max_sequences=8, prefix_cache=prefix_cache)
    check_split(Load(seed, engine, keeps_states=True))


def check_split(load: Load) -> None:
    """See the tests."""
    split = Split(load)
    try:
        split.run()
    finally:
        split.close()
    result = simulated(load)
    for worker, runner in zip(("prefill-0", "decode-0"), split.runners, strict=True):
        check_steps([span for span in result.spans if span.lane == worker and span.num_sequences], runner.steps)
    handed_over = {int(key.request_id) for key in split.handovers.offered_s}
    assert handed_over == {index for index, one in enumerate(load.arrivals) if one.num_output_tokens > 1}
    admitted = [int(key.request_id) for key in split.handovers.offered_s]
    for kind, order in (("queued", admitted), ("transfer", split.inbox.arrived)):
        found = [index for index in passed(result, kind) if index in handed_over]
        assert found == [index for index in order if index in found]
        assert len(found) > 10
    for index, record in enumerate(result.records):
        found = (record.first_token_s, record.finished_s, record.num_cached_tokens, record.num_attempts)
        times_s = split.times_s[index]
        assert found == pytest.approx((min(times_s), max(times_s), split.cached[index], 1), abs=EXACT)
