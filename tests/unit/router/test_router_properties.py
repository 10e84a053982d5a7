"""Table, prefix index, policy and admission together, while workers join, report, drain, hang and leave."""

from collections import deque
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.errors import OverloadedError
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_DRAFT, ROLE_MIXED, ROLE_PREFILL, WorkerState
from cluster.router.admission import Admission
from cluster.router.policy import Policy, Route, RouteRequest
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey
from workers.spec import Role

BLOCK_SIZE = 4
MAX_MODEL_LEN = 64
STEP_TIMEOUT_S = 5.0
THRESHOLD = 8
ROLES = {
    Role.PREFILL: ROLE_PREFILL,
    Role.DECODE: ROLE_DECODE,
    Role.MIXED: ROLE_MIXED,
    Role.DRAFT: ROLE_DRAFT,
}
names = st.sampled_from([f"w{number}" for number in range(6)])


class FakeWorker:
    """What is true of a worker, as against what the router was told."""

    def __init__(self, entry: WorkerEntry, num_blocks: int) -> None:
        self.entry = entry
        self.num_blocks = num_blocks
        self.cache: dict[int, None] = {}
        self.is_reported = False
        self.is_draining = False
        self.since_progress_s = 0.0
        self.num_reports = 0
        self.sequences: dict[str, int] = {}

    @property
    def key(self) -> WorkerKey:
        return WorkerKey(self.entry.worker_id, self.entry.incarnation)

    @property
    def may_be_chosen(self) -> bool:
        drains = self.is_draining or self.entry.draining
        return self.is_reported and not drains and self.since_progress_s <= STEP_TIMEOUT_S


class RouterMachine(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 99),
        max_running=st.integers(1, 4),
        max_queue=st.integers(0, 4),
        max_candidates=st.sampled_from([2, 4, 16]),
    )
    def start(self, seed: int, max_running: int, max_queue: int, max_candidates: int) -> None:
        self.rng = Random(seed)
        self.max_running, self.max_queue = max_running, max_queue
        self.admission = Admission(max_running=max_running, max_queue=max_queue)
        self.policy = Policy(disaggregate_over_tokens=THRESHOLD, max_candidates=max_candidates)
        self.table = WorkerTable(step_timeout_s=STEP_TIMEOUT_S)
        self.workers: dict[str, FakeWorker] = {}
        self.running: dict[str, float] = {}  # id -> deadline
        self.queued: deque[tuple[str, float]] = deque()
        self.count = 0
        self.now_s = 0.0

    def publish(self) -> None:
        self.table.replace([worker.entry for worker in self.workers.values()])

    @rule(name=names, role=st.sampled_from(Role), num_blocks=st.integers(1, 16))
    def join(self, name: str, role: Role, num_blocks: int) -> None:
        """A new worker, or a new life in the place of an old one; nothing may be sent before it has reported."""
        self.count += 1
        entry = WorkerEntry(worker_id=name, incarnation=str(self.count), role=role, address="a:1")
        self.workers[name] = FakeWorker(entry, num_blocks)
        self.publish()

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.workers.pop(name, None)
        self.publish()

    @rule(name=names)
    def drain(self, name: str) -> None:
        if (worker := self.workers.get(name)) is not None:
            old = worker.entry
            worker.entry = WorkerEntry(
                worker_id=name, incarnation=old.incarnation, role=old.role, address=old.address, draining=True
            )
            self.publish()

    @rule(name=names)
    def break_stream(self, name: str) -> None:
        if (worker := self.workers.get(name)) is not None:
            self.table.disconnect(worker.key)
            worker.is_reported = False
            for request_id in list(worker.sequences):
                self.forget(worker, request_id)

    @rule(
        name=names,
        used=st.integers(0, 16),
        num_running=st.integers(0, 8),
        num_waiting_tokens=st.integers(0, 200),
        rate=st.sampled_from([0.0, 10.0, 1000.0]),
        cached=st.sets(st.integers(0, 9)),
        since_progress_s=st.sampled_from([0.0, 0.0, 9.0]),
        is_draining=st.sampled_from([False, False, True]),
    )
    def report(
        self,
        name: str,
        used: int,
        num_running: int,
        num_waiting_tokens: int,
        rate: float,
        cached: set[int],
        since_progress_s: float,
        is_draining: bool,
    ) -> None:
        worker = self.workers.get(name)
        if worker is None:
            return
        if not worker.is_reported:
            worker.cache.clear()  # a stream begins with the whole cache
            worker.num_reports = 0
        worker.num_reports += 1
        state = WorkerState(
            role=ROLES[worker.entry.role],
            block_size=BLOCK_SIZE,
            num_blocks=worker.num_blocks,
            num_free_blocks=max(worker.num_blocks - used, 0),
            max_model_len=MAX_MODEL_LEN,
            max_sequences=4,
            num_running=num_running,
            num_waiting_tokens=num_waiting_tokens,
            prefill_tokens_per_s=rate,
            since_progress_s=since_progress_s,
            draining=is_draining,
            report_number=worker.num_reports,
            added_block_hashes=sorted(cached - worker.cache.keys()),
            removed_block_hashes=sorted(worker.cache.keys() - cached),
        )
        self.table.report(worker.key, state, now_s=self.now_s)
        worker.cache = dict.fromkeys(sorted(cached))
        worker.is_reported, worker.is_draining, worker.since_progress_s = True, is_draining, since_progress_s

    @rule(name=names)
    def lose_a_report(self, name: str) -> None:
        """The next one shows the gap, and until all is told again nothing is known of its cache."""
        worker = self.workers.get(name)
        if worker is None or not worker.is_reported:
            return
        state = WorkerState()
        state.CopyFrom(self.table.views(self.now_s)[list(self.workers).index(name)].state)
        state.report_number = worker.num_reports + 2
        state.added_block_hashes.append(5)
        self.table.report(worker.key, state, now_s=self.now_s)
        assert self.table.lacks_cache(worker.key)
        worker.cache.clear()
        worker.num_reports = 0

    @rule(name=names)
    def report_of_a_former_life(self, name: str) -> None:
        """Overtaken by the table: it must change nothing."""
        state = WorkerState(role=ROLE_DECODE, block_size=BLOCK_SIZE, num_blocks=99, num_free_blocks=99)
        state.added_block_hashes.extend(range(10))
        assert not self.table.report(WorkerKey(name, "former"), state, now_s=self.now_s)

    @rule(patience_s=st.sampled_from([1.0, 100.0]))
    def arrive(self, patience_s: float) -> None:
        self.count += 1
        request_id, deadline_s = f"r{self.count}", self.now_s + patience_s
        try:
            runs = self.admission.arrive(request_id, deadline_s=deadline_s, now_s=self.now_s)
        except OverloadedError:
            assert len(self.queued) == self.max_queue
            assert len(self.running) == self.max_running
            return
        if runs:
            self.running[request_id] = deadline_s
        else:
            self.queued.append((request_id, deadline_s))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(list(self.running)))
        del self.running[request_id]
        for worker in self.workers.values():
            if request_id in worker.sequences:
                self.forget(worker, request_id)
        for admitted in self.admission.leave(request_id, now_s=self.now_s):
            first, deadline_s = self.queued.popleft()
            assert admitted == first, "out of order"
            self.running[first] = deadline_s

    @rule(elapsed_s=st.floats(0.0, 3.0))
    def wait(self, elapsed_s: float) -> None:
        self.now_s += elapsed_s
        expired = self.admission.expire(self.now_s)
        assert expired == [name for name, deadline_s in self.queued if deadline_s <= self.now_s]
        self.queued = deque(one for one in self.queued if one[0] not in expired)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        num_tokens=st.integers(1, 40),
        num_outputs=st.integers(1, 20),
        num_choices=st.integers(1, 3),
        excluded=st.sets(names, max_size=3),
    )
    def route(
        self, data: st.DataObject, num_tokens: int, num_outputs: int, num_choices: int, excluded: set[str]
    ) -> None:
        request = RouteRequest(
            num_tokens=num_tokens,
            max_total_tokens=num_tokens + num_outputs,
            num_choices=num_choices,
            block_hashes=range(min(num_tokens // BLOCK_SIZE, 10)),
            excluded=frozenset(excluded),
        )
        lot = self.rng.getstate()
        route = self.policy.route(request, self.table.pools, self.table.prefix, self.now_s, self.rng)
        after = self.rng.getstate()
        self.rng.setstate(lot)
        assert route == self.policy.route(request, self.table.pools, self.table.prefix, self.now_s, self.rng)
        assert after == self.rng.getstate()
        readers = self.fitting([Role.DECODE, Role.MIXED], request.max_total_tokens)
        assert (route is None) == (not readers), "no route although there is a worker, or one without"
        if route is not None:
            self.check(route, request, readers)
            self.send(route, request, data.draw(st.sampled_from(list(self.running))))

    def fitting(self, roles: list[Role], num_tokens: int) -> list[str]:
        return [
            name
            for name, worker in self.workers.items()
            if worker.may_be_chosen
            and worker.entry.role in roles
            and min(MAX_MODEL_LEN, worker.num_blocks * BLOCK_SIZE) >= num_tokens
        ]

    def check(self, route: Route, request: RouteRequest, readers: list[str]) -> None:
        assert route.decode_id in readers
        if set(readers) - request.excluded:
            assert route.decode_id not in request.excluded, "a worker that failed it although there is another"
        prefills = self.fitting([Role.PREFILL], request.num_tokens + 1)
        reader = route.decode_id if route.prefill_id is None else route.prefill_id
        if route.prefill_id is not None:
            assert route.prefill_id in prefills
            assert self.workers[route.decode_id].entry.role is Role.DECODE
            if set(prefills) - request.excluded:
                assert route.prefill_id not in request.excluded
        elif self.workers[route.decode_id].entry.role is Role.DECODE and prefills:
            assert request.num_tokens - route.num_cached_tokens <= THRESHOLD
        hits = list(self.workers[reader].cache)
        num_hits = next((i for i, one in enumerate(request.block_hashes) if one not in hits), len(request.block_hashes))
        assert route.num_cached_tokens == min(num_hits * BLOCK_SIZE, request.num_tokens - 1)

    def send(self, route: Route, request: RouteRequest, request_id: str) -> None:
        """What the dispatcher books for a route."""
        by_id = self.table.pools.by_id
        by_id[route.prefill_id or route.decode_id].sent(
            num_tokens=request.num_tokens - route.num_cached_tokens, num_sequences=0, num_blocks=0
        )
        num_blocks = -(-request.num_tokens // BLOCK_SIZE)
        by_id[route.decode_id].sent(num_tokens=0, num_sequences=request.num_choices, num_blocks=num_blocks)
        worker = self.workers[route.decode_id]
        self.table.attach(worker.key, request_id, request.num_choices)
        worker.sequences[request_id] = worker.sequences.get(request_id, 0) + request.num_choices

    def forget(self, worker: FakeWorker, request_id: str) -> None:
        del worker.sequences[request_id]
        self.table.detach(worker.key, request_id)

    @invariant()
    def the_table_knows_exactly_who_may_be_chosen(self) -> None:
        if not hasattr(self, "table"):
            return
        assert set(self.table.pools.by_id) == {name for name, one in self.workers.items() if one.may_be_chosen}
        for load in self.table.pools.prefill:
            assert load.role is Role.PREFILL
        self.table.prefix.check_integrity()
        for name, worker in self.workers.items():
            hits = [one for one in range(10) if self.table.prefix.match(name, [one])]
            assert hits == (sorted(worker.cache) if worker.is_reported else [])
            assert self.table.dependents(worker.key) == list(worker.sequences)
            load = self.table.load(worker.key)
            assert load is None or load.num_outstanding == sum(worker.sequences.values())
        assert self.table.health().ok <= bool(self.table.pools.decode)

    @invariant()
    def admission_holds_its_bounds(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.admission.num_running == len(self.running) <= self.max_running
        assert self.admission.num_queued == len(self.queued) <= self.max_queue
        assert not self.queued or len(self.running) == self.max_running, "somebody waits while a slot is free"


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
