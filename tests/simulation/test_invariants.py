"""Each invariant is seen when it is broken, with the worker or request and the numbers."""

from dataclasses import dataclass

import pytest

from baton.v1.inference_pb2 import FINISH_REASON_LENGTH
from baton.v1.worker_pb2 import TokenOutput
from cluster.config.schema import KVConfig, RouterConfig
from cluster.router.admission import Admission
from cluster.router.workers import WorkerKey
from cluster.simulator.invariants import Answers, InvariantError, Invariants
from tests.unit.engine.sequences import make_sequence
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import Job, JobTable
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence

ROUTER = RouterConfig(max_running=1, max_queue=2)


@dataclass
class Transfers:
    """Of hand-overs: none but what a test puts here."""

    num_pending: int = 0
    jobs: tuple[Job, ...] = ()

    def __len__(self) -> int:
        return len(self.jobs)


class Worker:
    def __init__(self) -> None:
        self.key = WorkerKey("decode-0", "1")
        self.blocks = BlockManager(num_blocks=8, block_size=4, prefix_cache=True)
        self.scheduler = Scheduler(blocks=self.blocks, max_batched_tokens=16, max_sequences=4, chunked_prefill=True)
        self.jobs = JobTable(lease_s=1.0)
        self.sending = self.receiving = Transfers()

    def hold(self, num_tokens: int) -> Sequence:
        seq = make_sequence(num_tokens)
        self.blocks.grow(seq, num_tokens)
        return seq


def make(check_every: int | None = None) -> tuple[Invariants, Worker, Admission]:
    invariants = Invariants(router=ROUTER, kv=KVConfig(max_pending=2), num_requests=1, check_every=check_every)
    return invariants, Worker(), Admission(max_running=1, max_queue=2)


def output(index: int, num_tokens: int, *, is_last: bool = False) -> TokenOutput:
    reason = FINISH_REASON_LENGTH if is_last else 0
    return TokenOutput(index=index, token_ids=[7] * num_tokens, finish_reason=reason)


def test_an_answer_in_order_and_ended_once_is_right() -> None:
    answers = Answers(2)
    answers.read(0, output(0, 2), 3)
    answers.read(1, output(0, 1, is_last=True), 1)
    answers.read(0, output(2, 1, is_last=True), 3)
    answers.check_all_ended()


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([output(0, 2), output(1, 1)], "request 0: read 2 tokens, then token 1"),
        ([output(1, 1)], "request 0: read 0 tokens, then token 1"),
        ([output(0, 2, is_last=True)], "request 0: ended with 2 of 3 tokens"),
        ([output(0, 4, is_last=True)], "request 0: ended with 4 of 3 tokens"),
        ([output(0, 3, is_last=True), output(3, 1)], "request 0: 1 tokens after its end"),
    ],
)
def test_tokens_twice_lost_or_after_the_end_are_seen(outputs: list[TokenOutput], says: str) -> None:
    answers = Answers(1)
    for one in outputs[:-1]:
        answers.read(0, one, 3)
    with pytest.raises(InvariantError, match=says):
        answers.read(0, outputs[-1], 3)


def test_a_second_end_and_a_missing_one_are_seen() -> None:
    answers = Answers(2)
    answers.end(1)
    with pytest.raises(InvariantError, match="request 1: a second end"):
        answers.end(1)
    with pytest.raises(InvariantError, match=r"requests \[0\] never ended"):
        answers.check_all_ended()


def test_counters_that_do_not_add_up_are_seen_at_once() -> None:
    invariants, worker, admission = make()
    invariants.after_event([worker], lambda: [worker], admission)
    worker.blocks._num_referenced = 1
    with pytest.raises(InvariantError, match="decode-0: blocks add up to 9 of 8"):
        invariants.after_event([worker], lambda: [worker], admission)


def test_a_block_without_a_holder_is_seen_when_all_is_checked() -> None:
    invariants, worker, admission = make(check_every=2)
    seq = worker.hold(8)
    invariants.after_event([worker], lambda: [worker], admission)
    with pytest.raises(InvariantError, match=r"decode-0: blocks \[0, 1\]: \[0, 0\] holders"):
        invariants.after_event([worker], lambda: [worker], admission)
    worker.jobs.add(Job(seq=seq, choices=[0]))
    invariants.check_worker(worker)
    worker.scheduler.add(seq)
    with pytest.raises(InvariantError, match="wait and hold blocks"):
        invariants.check_worker(worker)


def test_queues_over_their_bounds_are_seen() -> None:
    invariants, worker, admission = make()
    worker.receiving.num_pending = 3
    with pytest.raises(InvariantError, match="decode-0: 3 offers wait, at most 2 may"):
        invariants.check_counters(worker)
    for name in "abcd":
        admission._queued[name] = 1.0
    with pytest.raises(InvariantError, match="4 requests wait, at most 2 may"):
        invariants.check_admission(admission)
    del admission._queued["a"], admission._queued["b"]
    with pytest.raises(InvariantError, match="2 requests wait while a place is free"):
        invariants.check_admission(admission)


def test_what_is_left_at_the_end_is_seen() -> None:
    invariants, worker, admission = make()
    with pytest.raises(InvariantError, match=r"requests \[0\] never ended"):
        invariants.check_end([worker], admission)
    invariants.answers.end(0)
    invariants.check_end([worker], admission)
    admission.arrive("a", deadline_s=1.0, now_s=0.0)
    with pytest.raises(InvariantError, match="1 requests still run"):
        invariants.check_end([worker], admission)
    admission.leave("a", now_s=0.0)
    seq = worker.hold(4)
    worker.blocks.quarantine(seq)
    with pytest.raises(InvariantError, match="decode-0: blocks in use at the end"):
        invariants.check_end([worker], admission)
    worker.blocks.release_quarantine(seq.key)
    worker.jobs.add(Job(seq=seq, choices=[0]))
    with pytest.raises(InvariantError, match="decode-0: 1 jobs and transfers are left"):
        invariants.check_end([worker], admission)
