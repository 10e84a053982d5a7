"""A request among workers that die, give up and repeat themselves: it ends once, whole, and leaves nothing behind."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.errors import DeadlineExceededError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, FINISH_REASON_LENGTH, SamplingParams
from baton.v1.worker_pb2 import Abort, DecodeRoute, Submit, TokenOutput, WorkerError
from cluster.router.lifecycle import PREEMPTED, Lifecycle
from cluster.router.workers import WorkerKey

MAX_TOKENS = 7
NUM_WORKERS = 4


def true_token(choice: int, position: int) -> int:
    return 100 * (choice + 1) + position


@dataclass(eq=False)
class FakeJob:
    """One choice on one worker."""

    choice: int
    attempt: int
    num_tokens: int  # output so far
    hand_to: WorkerKey | None  # prefill: who goes on after the first token


@dataclass(eq=False)
class FakeWorker:
    """Writes one token per job and step; what it says waits in its stream."""

    key: WorkerKey
    jobs: list[FakeJob] = field(default_factory=list)
    stream: deque[TokenOutput] = field(default_factory=deque)

    def submit(self, submit: Submit) -> None:
        route = submit.decode
        hand_to = WorkerKey(route.worker_id, route.incarnation) if submit.HasField("decode") else None
        for start in submit.choices:
            self.jobs.append(FakeJob(start.choice, submit.attempt, len(start.output_token_ids), hand_to))

    def abort(self, abort: Abort) -> None:
        self.jobs = [
            job
            for job in self.jobs
            if job.attempt > abort.attempt or (abort.choices and job.choice not in abort.choices)
        ]

    def step(self, job: FakeJob) -> bool:
        """Whether the job goes on, here or elsewhere."""
        is_last = job.num_tokens + 1 == MAX_TOKENS
        token = TokenOutput(choice=job.choice, attempt=job.attempt, index=job.num_tokens)
        token.token_ids.append(true_token(job.choice, job.num_tokens))
        if is_last:
            token.finish_reason = FINISH_REASON_LENGTH
        job.num_tokens += 1
        self.stream.append(token)
        if is_last or job.hand_to is not None:
            self.jobs.remove(job)
        return not is_last

    def give_up(self, job: FakeJob, code: str) -> None:
        self.jobs.remove(job)
        output = TokenOutput(choice=job.choice, attempt=job.attempt, finish_reason=FINISH_REASON_ERROR)
        output.error.CopyFrom(WorkerError(code=code, message=f"it is {code}", retryable=True))
        self.stream.append(output)


class ClusterMachine(RuleBasedStateMachine):
    @initialize(n=st.integers(1, 3), max_retries=st.integers(0, 3))
    def start(self, n: int, max_retries: int) -> None:
        self.n, self.max_retries = n, max_retries
        self.lifecycle = Lifecycle(
            request_id="r",
            prompt_token_ids=[1, 2, 3],
            sampling=SamplingParams(n=n, max_tokens=MAX_TOKENS),
            deadline_s=100.0,
            max_retries=max_retries,
        )
        self.num_lives = 0
        self.workers: dict[str, FakeWorker] = {}
        for number in range(NUM_WORKERS):
            self.revive(f"w{number}")
        self.said: list[TokenOutput] = []  # whatever was ever heard: the past may come again
        self.read: list[list[int]] = [[] for _ in range(n)]
        self.num_ends = Counter[int]()
        self.aborted: set[int] = set()
        self.is_over = False  # ended from outside

    def revive(self, worker_id: str) -> None:
        self.num_lives += 1
        self.workers[worker_id] = FakeWorker(WorkerKey(worker_id, str(self.num_lives)))

    def alive(self, key: WorkerKey) -> FakeWorker | None:
        worker = self.workers[key.worker_id]
        return worker if worker.key == key else None

    def deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            assert not self.num_ends[output.choice], "something after the end"
            assert output.index == len(self.read[output.choice])
            self.read[output.choice] += output.token_ids
            self.num_ends[output.choice] += bool(output.finish_reason)
        self.send_aborts()

    def send_aborts(self) -> None:
        for key, abort in self.lifecycle.take_aborts():
            if (worker := self.alive(key)) is not None:
                worker.abort(abort)

    def hear(self, worker: FakeWorker, output: TokenOutput) -> None:
        self.said.append(output)
        copy = TokenOutput()
        copy.CopyFrom(output)
        self.deliver(self.lifecycle.accept(copy, worker.key, 0.0))

    def launch(self, prefill: str | None, decode: str) -> None:
        for launch in self.lifecycle.launches():
            reader = self.workers[prefill] if prefill not in (None, decode) else None
            target = self.workers[decode].key
            route = DecodeRoute(worker_id=target.worker_id, incarnation=target.incarnation, address="a:1")
            submit = self.lifecycle.dispatch(launch, prefill=reader.key if reader else None, route=route, now_s=0.0)
            (reader or self.workers[decode]).submit(submit)

    def run_job(self, worker: FakeWorker, job: FakeJob) -> None:
        target = job.hand_to
        if not worker.step(job) or target is None:
            return
        receiver = self.alive(target)
        if receiver is None:
            worker.jobs.append(job)
            worker.give_up(job, "unavailable")
        else:
            job.hand_to = None
            receiver.jobs.append(job)

    names = st.sampled_from([f"w{number}" for number in range(NUM_WORKERS)])

    @rule(prefill=st.none() | names, decode=names)
    def dispatch(self, prefill: str | None, decode: str) -> None:
        self.launch(prefill, decode)

    @rule(name=names, num_steps=st.integers(1, 4))
    def work(self, name: str, num_steps: int) -> None:
        worker = self.workers[name]
        for _ in range(num_steps):
            for job in list(worker.jobs):
                self.run_job(worker, job)

    @rule(name=names, num_messages=st.integers(1, 6))
    def listen(self, name: str, num_messages: int) -> None:
        worker = self.workers[name]
        for _ in range(min(num_messages, len(worker.stream))):
            self.hear(worker, worker.stream.popleft())

    @rule(name=names, data=st.data())
    def overtake(self, name: str, data: st.DataObject) -> None:
        """A message comes before those said earlier."""
        worker = self.workers[name]
        if worker.stream:
            output = data.draw(st.sampled_from(list(worker.stream)))
            worker.stream.remove(output)
            self.hear(worker, output)

    @precondition(lambda self: self.said)
    @rule(name=names, data=st.data())
    def repeat(self, name: str, data: st.DataObject) -> None:
        """A message of any attempt comes once more, after all that was said since."""
        self.hear(self.workers[name], data.draw(st.sampled_from(self.said)))

    @rule(name=names, num_heard=st.integers(0, 3))
    def kill(self, name: str, num_heard: int) -> None:
        """Some of what it said still arrives; the rest is lost with it."""
        worker = self.workers[name]
        for _ in range(min(num_heard, len(worker.stream))):
            self.hear(worker, worker.stream.popleft())
        self.revive(name)
        self.deliver(self.lifecycle.lose(worker.key, "gone", 0.0))
        assert worker.key not in self.lifecycle.workers()

    @rule(name=names, code=st.sampled_from([PREEMPTED, "unavailable"]))
    def give_up(self, name: str, code: str) -> None:
        worker = self.workers[name]
        if worker.jobs:
            worker.give_up(worker.jobs[0], code)

    @rule(choice=st.integers(0, 2))
    def abort_choice(self, choice: int) -> None:
        """The ingress has found a stop string."""
        if choice < self.n and self.read[choice]:
            if not self.num_ends[choice]:  # else it has ended by itself, and the abort comes too late
                self.aborted.add(choice)
            self.lifecycle.abort_choice(choice)
            self.send_aborts()

    @precondition(lambda self: self.said)
    @rule(is_deadline=st.booleans(), lot=st.integers(0, 9))
    def end_from_outside(self, is_deadline: bool, lot: int) -> None:
        if lot:
            return
        self.is_over = True
        if is_deadline:
            self.lifecycle.fail(DeadlineExceededError("too late"))
        else:
            self.lifecycle.end()
        self.send_aborts()

    @invariant()
    def what_was_read_is_the_truth(self) -> None:
        for choice in range(getattr(self, "n", 0)):
            read = self.read[choice]
            assert read == [true_token(choice, position) for position in range(len(read))]
            assert list(self.lifecycle.tokens(choice)) == read
            assert self.num_ends[choice] <= 1
            assert not self.num_ends[choice] or len(read) == MAX_TOKENS

    @invariant()
    def an_ended_request_runs_nowhere(self) -> None:
        if hasattr(self, "lifecycle") and self.lifecycle.finished:
            assert not any(worker.jobs for worker in self.workers.values())
            assert not self.lifecycle.launches()
            assert not self.lifecycle.workers()

    def teardown(self) -> None:
        """Once nothing fails any more the request comes to its one end."""
        if not hasattr(self, "lifecycle"):
            return
        for _ in range(4 * MAX_TOKENS * (self.max_retries + 2)):
            self.launch("w0", "w1")
            for worker in self.workers.values():
                for job in list(worker.jobs):
                    self.run_job(worker, job)
                while worker.stream:
                    self.hear(worker, worker.stream.popleft())
        assert self.lifecycle.finished
        self.what_was_read_is_the_truth()
        self.an_ended_request_runs_nowhere()
        if self.is_over:
            return
        if self.lifecycle.failure is not None:
            assert isinstance(self.lifecycle.failure, UnavailableError)
            return
        for choice in range(self.n):
            assert self.num_ends[choice] == (choice not in self.aborted)


TestClusterMachine = ClusterMachine.TestCase
TestClusterMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
