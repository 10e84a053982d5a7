"""The requests of an ingress, without streams: time is told, alarms are noted, messages are kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest

from baton.errors import DeadlineExceededError, InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, FINISH_REASON_LENGTH, SamplingParams
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_DRAFT, Submit, TokenOutput, WorkerState
from cluster.config.schema import RouterConfig
from cluster.router.active import Active, Timer
from cluster.router.lifecycle import Lifecycle
from cluster.router.requests import Requests
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey
from workers.spec import Role

D0, D1, X0 = WorkerKey("d0", "x"), WorkerKey("d1", "x"), WorkerKey("x0", "x")


class Ingress:
    def __init__(self, *workers: WorkerKey, max_running: int = 8) -> None:
        self.table = WorkerTable(step_timeout_s=30.0)
        self.submits: list[tuple[WorkerKey, Submit]] = []
        self.aborts: list[WorkerKey] = []
        self.delivered: Counter[str] = Counter()
        self.alarms: dict[tuple[str, Timer], float] = {}
        self.requests: Requests[Active] = Requests(
            table=self.table,
            config=RouterConfig(max_running=max_running, max_queue=4),
            start_timeout_s=10.0,
            rng=Random(1),
            submit=lambda active, key, submit: self.submits.append((key, submit)),
            abort=lambda key, abort: self.aborts.append(key),
            deliver=self._deliver,
            ended=self._ended,
            alarm=self._alarm,
            block_hashes=lambda active, output_token_ids, block_size: (),
            refusal=lambda: None,
        )
        for key in workers:
            self.connect(key)

    def connect(self, key: WorkerKey, role: Role = Role.DECODE) -> None:
        entry = WorkerEntry(worker_id=key.worker_id, incarnation=key.incarnation, role=role, address="a:1")
        self.table.replace([*self.table.entries().values(), entry])
        state = WorkerState(
            role=ROLE_DRAFT if role is Role.DRAFT else ROLE_DECODE,
            block_size=4,
            num_blocks=100,
            num_free_blocks=100,
            max_model_len=200,
            max_sequences=8,
        )
        self.table.report(key, state, now_s=0.0)

    def arrive(
        self,
        request_id: str,
        now_s: float = 0.0,
        *,
        max_tokens: int = 8,
        deadline_s: float = 100.0,
        speculation: str = "",
    ) -> Active:
        lifecycle = Lifecycle(
            request_id=request_id,
            prompt_token_ids=(1,) * 10,
            sampling=SamplingParams(n=1, max_tokens=max_tokens, seed=1, speculation=speculation),
            deadline_s=deadline_s,
            max_retries=1,
        )
        active = Active(lifecycle=lifecycle, num_prompt_tokens=10, max_tokens=max_tokens)
        self.requests.arrive(active, now_s)
        return active

    def ring(self, active: Active, timer: Timer) -> None:
        self.requests.ring(active, timer, self.alarms.pop((active.request_id, timer)))

    def _deliver(self, active: Active, outputs: Sequence[TokenOutput]) -> None:
        self.delivered[active.request_id] += sum(len(output.token_ids) for output in outputs)

    def _ended(self, active: Active, admitted: Sequence[Active]) -> None:
        for other in admitted:
            self.requests.launch(other, 0.0)

    def _alarm(self, active: Active, timer: Timer, at_s: float) -> Callable[[], object]:
        name = (active.request_id, timer)
        assert name not in self.alarms, f"{name} is set already"
        self.alarms[name] = at_s
        return lambda: self.alarms.pop(name)

    def check_empty(self) -> None:
        assert len(self.requests) == 0
        assert not self.alarms
        assert not any(self.table.dependents(key) for key in (D0, D1, X0))


def output(request_id: str, index: int, *, attempt: int = 0, is_last: bool = False) -> TokenOutput:
    reason = FINISH_REASON_LENGTH if is_last else 0
    return TokenOutput(
        request_id=request_id, choice=0, attempt=attempt, index=index, token_ids=[7], finish_reason=reason
    )


def test_a_request_that_ends_leaves_nothing_behind() -> None:
    ingress = Ingress(D0)
    ingress.arrive("r")
    assert ingress.table.dependents(D0) == ["r"]
    ingress.requests.take_outputs(D0, [output("r", 0), output("r", 1, is_last=True)], 1.0)
    assert ingress.delivered["r"] == 2
    assert ingress.aborts == []
    ingress.check_empty()


def test_a_lost_worker_s_requests_go_to_another_at_once() -> None:
    ingress = Ingress(D0, D1)
    active = ingress.arrive("r")
    [(first, _)] = ingress.submits
    ingress.requests.take_outputs(first, [output("r", 0)], 1.0)
    ingress.table.disconnect(first)
    ingress.requests.lose_worker(first, "gone", 2.0)
    key, submit = ingress.submits[1]
    assert key != first
    assert list(submit.choices[0].output_token_ids) == [7]
    assert active.workers == {key}
    ingress.requests.take_outputs(key, [output("r", 1, attempt=1, is_last=True)], 3.0)
    ingress.check_empty()


def test_what_a_worker_that_is_to_go_breaks_counts_towards_no_limit_of_retries() -> None:
    ingress = Ingress(D0)
    active = ingress.arrive("r")
    for attempt in range(3):  # max_retries is 1
        error = TokenOutput(request_id="r", choice=0, attempt=attempt, finish_reason=FINISH_REASON_ERROR)
        error.error.code, error.error.retryable = "unavailable", True
        ingress.table.report(D0, WorkerState(role=ROLE_DECODE, draining=True), now_s=1.0)
        ingress.requests.take_outputs(D0, [error], 1.0)
        ingress.ring(active, Timer.RETRY)
        ingress.table.report(D0, WorkerState(role=ROLE_DECODE, max_model_len=200, max_sequences=8), now_s=1.0)
        ingress.requests.launch_unrouted(2.0)
    ingress.table.disconnect(D0)
    ingress.requests.lose_worker(D0, "closed the stream", 3.0)  # before the controller's table said that it drains
    ingress.connect(D1)
    ingress.requests.launch_unrouted(3.0)
    assert active.lifecycle.failure is None
    ingress.requests.take_outputs(D1, [output("r", 0, attempt=4, is_last=True)], 4.0)
    assert active.lifecycle.finished
    ingress.check_empty()


def test_without_a_worker_a_request_waits_and_gives_up_by_name() -> None:
    ingress = Ingress()
    waiting, served = ingress.arrive("waiting"), ingress.arrive("served", 1.0)
    assert ingress.alarms["waiting", Timer.WORKER] == 10.0
    ingress.ring(waiting, Timer.WORKER)
    assert isinstance(waiting.lifecycle.failure, UnavailableError)
    assert "within 10 s (health.start_timeout_s)" in waiting.lifecycle.failure.message
    ingress.connect(D0)
    ingress.requests.launch_unrouted(10.5)
    assert [submit.request_id for _, submit in ingress.submits] == ["served"]
    assert list(ingress.alarms) == [("served", Timer.DEADLINE)]
    ingress.ring(served, Timer.DEADLINE)
    assert ingress.aborts == [D0]
    ingress.check_empty()


def test_a_fruitless_attempt_is_followed_after_a_pause_and_by_one_alarm() -> None:
    ingress = Ingress(D0)
    active = ingress.arrive("r")
    error = TokenOutput(request_id="r", choice=0, attempt=0, finish_reason=FINISH_REASON_ERROR)
    error.error.code, error.error.retryable = "preempted", True
    ingress.requests.take_outputs(D0, [error], 1.0)
    pause_over_s = ingress.alarms["r", Timer.RETRY]
    assert pause_over_s > 1.0
    ingress.requests.reconcile(active, 1.01)
    assert ingress.alarms["r", Timer.RETRY] == pause_over_s
    assert len(ingress.submits) == 1
    ingress.ring(active, Timer.RETRY)
    assert [submit.attempt for _, submit in ingress.submits] == [0, 1]
    active.lifecycle.end()
    ingress.requests.reconcile(active, 2.0)
    ingress.check_empty()


def test_a_place_that_is_free_goes_to_the_next_and_the_overdue_are_told() -> None:
    ingress = Ingress(D0, max_running=1)
    running, late, next_ = ingress.arrive("a"), ingress.arrive("b", deadline_s=5.0), ingress.arrive("c")
    assert [submit.request_id for _, submit in ingress.submits] == ["a"]
    ingress.ring(late, Timer.DEADLINE)
    assert isinstance(late.lifecycle.failure, DeadlineExceededError)
    assert "still queued" in late.lifecycle.failure.message
    ingress.requests.take_outputs(D0, [output("a", 0, is_last=True)], 6.0)
    assert running.lifecycle.finished
    assert [submit.request_id for _, submit in ingress.submits] == ["a", "c"]
    ingress.requests.fail(next_, UnavailableError("enough"), 7.0)
    ingress.check_empty()


def test_what_cannot_be_served_is_refused_when_it_arrives() -> None:
    ingress = Ingress(D0)
    with pytest.raises(InvalidRequestError, match=r"max_tokens: 300 with a prompt of 10 tokens.*ask for 190"):
        ingress.arrive("long", max_tokens=300)
    with pytest.raises(DeadlineExceededError, match="request late"):
        ingress.arrive("late", 5.0, deadline_s=5.0)
    ingress.check_empty()


def test_a_draft_worker_is_named_to_the_reader_and_its_death_ends_nothing() -> None:
    ingress = Ingress(D0)
    ingress.connect(X0, Role.DRAFT)
    active = ingress.arrive("r")
    [(_, submit)] = ingress.submits
    assert (submit.draft.worker_id, submit.draft.incarnation, submit.draft.address) == ("x0", "x", "a:1")
    assert ingress.table.pools.draft[0].num_sequences == 1
    ingress.table.disconnect(X0)
    ingress.requests.lose_worker(X0, "killed", 1.0)
    ingress.arrive("later", 1.5)
    assert not ingress.submits[-1][1].HasField("draft")
    ingress.requests.take_outputs(D0, [output("r", 0), output("later", 0, is_last=True)], 2.0)
    assert (active.lifecycle.num_retries, len(ingress.submits), ingress.aborts) == (0, 2, [])
    ingress.requests.take_outputs(D0, [output("r", 1, is_last=True)], 3.0)
    ingress.check_empty()


def test_a_request_that_wants_no_drafts_is_sent_without_a_draft_worker() -> None:
    ingress = Ingress(D0)
    ingress.connect(X0, Role.DRAFT)
    ingress.arrive("r", speculation="none")
    assert not ingress.submits[0][1].HasField("draft")
