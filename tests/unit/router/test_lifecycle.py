"""One request's lifecycle: order, repetition, losses, ends."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.errors import InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import (
    FINISH_REASON_ABORT,
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    FinishReason,
    SamplingParams,
    TokenLogprob,
    TokenLogprobs,
)
from baton.v1.worker_pb2 import DecodeRoute, Submit, TokenOutput, WorkerError
from cluster.router.choice import MOVES, Phase
from cluster.router.lifecycle import MAX_BACKOFF_S, Lifecycle
from cluster.router.workers import WorkerKey

P0, P1, D0, D1 = (WorkerKey(name, "x") for name in ("p0", "p1", "d0", "d1"))
MAX_TOKENS = 12


def _lifecycle(*, n: int = 1, max_retries: int = 2, stop_token_ids: Sequence[int] = ()) -> Lifecycle:
    return Lifecycle(
        request_id="r",
        prompt_token_ids=[1, 2, 3],
        sampling=SamplingParams(n=n, max_tokens=MAX_TOKENS, seed=5, stop=["END"], stop_token_ids=stop_token_ids),
        deadline_s=100.0,
        max_retries=max_retries,
    )


def _dispatch(
    lifecycle: Lifecycle, prefill: WorkerKey | None = P0, decode: WorkerKey = D0, now_s: float = 0.0
) -> list[Submit]:
    route = DecodeRoute(worker_id=decode.worker_id, incarnation=decode.incarnation, address="a:1")
    return [lifecycle.dispatch(launch, prefill=prefill, route=route, now_s=now_s) for launch in lifecycle.launches()]


def _tokens(
    index: int,
    *token_ids: int,
    choice: int = 0,
    attempt: int = 0,
    reason: FinishReason = FINISH_REASON_UNSPECIFIED,
) -> TokenOutput:
    return TokenOutput(
        request_id="r",
        choice=choice,
        attempt=attempt,
        index=index,
        token_ids=token_ids,
        logprobs=[TokenLogprobs(sampled=TokenLogprob(token_id=token_id)) for token_id in token_ids],
        finish_reason=reason,
    )


def _error(code: str, *, retryable: bool = True, attempt: int = 0, choice: int = 0) -> TokenOutput:
    error = WorkerError(code=code, message=f"it is {code}", retryable=retryable)
    return TokenOutput(request_id="r", choice=choice, attempt=attempt, finish_reason=FINISH_REASON_ERROR, error=error)


def _read(outputs: Sequence[TokenOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def test_the_first_attempt_carries_everything_a_worker_needs() -> None:
    lifecycle = _lifecycle(n=2)
    [submit] = _dispatch(lifecycle, now_s=40.0)
    assert [start.choice for start in submit.choices] == [0, 1]
    assert (submit.attempt, submit.timeout_s, submit.decode.worker_id) == (0, 60.0, "d0")
    assert list(submit.prompt_token_ids) == [1, 2, 3]
    assert submit.sampling.seed == 5
    assert not submit.sampling.stop
    assert lifecycle.launches() == []
    [alone] = _dispatch(_lifecycle(), prefill=None)
    assert not alone.HasField("decode")


def test_tokens_after_a_gap_wait_and_follow_in_order() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    assert lifecycle.accept(_tokens(2, 12), D0, 0.0) == []
    assert lifecycle.accept(_tokens(1, 11), D0, 0.0) == []
    assert lifecycle.phase(0) is Phase.DISPATCHED
    assert _read(lifecycle.accept(_tokens(0, 10), P0, 0.0)) == [10, 11, 12]
    assert list(lifecycle.tokens(0)) == [10, 11, 12]


def test_a_final_output_after_a_gap_waits_too() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    assert lifecycle.accept(_tokens(1, 11, reason=FINISH_REASON_STOP), D0, 0.0) == []
    assert not lifecycle.finished
    assert _read(lifecycle.accept(_tokens(0, 10), P0, 0.0)) == [10, 11]
    assert lifecycle.finished
    assert lifecycle.finish_reasons() == [FINISH_REASON_STOP]


def test_repeated_tokens_are_cut_off_with_their_logprobs() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(0, 10, 11), P0, 0.0)
    assert lifecycle.accept(_tokens(0, 10), P0, 0.0) == []
    [output] = lifecycle.accept(_tokens(1, 11, 12), D0, 0.0)
    assert (output.index, list(output.token_ids)) == (2, [12])
    assert [one.sampled.token_id for one in output.logprobs] == [12]


def test_older_attempts_unknown_choices_and_ended_choices_are_ignored() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(0, 10), P0, 0.0)
    lifecycle.lose(D0, "gone", 0.0)
    assert lifecycle.accept(_tokens(1, 11), P0, 0.0) == []
    _dispatch(lifecycle, decode=D1)
    assert lifecycle.accept(_tokens(1, 11, attempt=0), D0, 0.0) == []
    assert lifecycle.accept(_tokens(1, 11, attempt=9), D0, 0.0) == []
    assert lifecycle.accept(_tokens(0, 11, choice=4, attempt=1), D0, 0.0) == []
    assert _read(lifecycle.accept(_tokens(1, 11, attempt=1, reason=FINISH_REASON_STOP), D1, 0.0)) == [11]
    assert lifecycle.accept(_tokens(2, 12, attempt=1), D1, 0.0) == []


def test_a_lost_decode_worker_starts_an_attempt_with_what_was_delivered() -> None:
    lifecycle = _lifecycle(n=2)
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(0, 10), P0, 0.0)
    lifecycle.accept(_tokens(0, 20, choice=1), P0, 0.0)
    lifecycle.accept(_tokens(1, 21, choice=1), D0, 0.0)
    assert lifecycle.lose(D0, "gone", 1.0) == []
    assert [lifecycle.phase(0), lifecycle.phase(1)] == [Phase.RETRYING, Phase.RETRYING]
    submits = _dispatch(lifecycle, decode=D1, now_s=1.0)
    assert [[start.choice for start in submit.choices] for submit in submits] == [[0], [1]]
    assert [list(submit.choices[0].output_token_ids) for submit in submits] == [[10], [20, 21]]
    assert [submit.attempt for submit in submits] == [1, 2]
    assert lifecycle.excluded == {D0}
    aborts = lifecycle.take_aborts()
    assert [(key, abort.attempt, list(abort.choices)) for key, abort in aborts] == [(P0, 0, [0])]
    assert lifecycle.take_aborts() == []


def test_prefill_counts_until_decode_has_spoken() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    assert lifecycle.workers() == {P0, D0}
    lifecycle.accept(_tokens(0, 10), P0, 0.0)
    assert lifecycle.workers() == {P0, D0}
    lifecycle.accept(_tokens(1, 11), D0, 0.0)
    assert lifecycle.workers() == {D0}
    lifecycle.lose(P0, "gone", 0.0)
    assert lifecycle.phase(0) is Phase.RUNNING
    assert lifecycle.excluded == set()


def test_a_lost_ack_is_no_loss_once_decode_has_spoken() -> None:
    lifecycle = _lifecycle(max_retries=0)
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(0, 10), P0, 0.0)
    lifecycle.accept(_tokens(1, 11), D0, 0.0)
    assert lifecycle.accept(_error("unavailable"), P0, 30.0) == []
    assert lifecycle.phase(0) is Phase.RUNNING
    assert (lifecycle.failure, lifecycle.excluded, lifecycle.take_aborts()) == (None, set(), [])
    assert _read(lifecycle.accept(_tokens(2, 12), D0, 31.0)) == [12]


def test_decode_alone_is_not_enough_when_the_first_token_is_missing() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(1, 11), D0, 0.0)
    lifecycle.lose(P0, "gone", 0.0)
    assert lifecycle.phase(0) is Phase.RETRYING
    assert [key for key, _ in lifecycle.take_aborts()] == [D0]


def test_losses_are_bounded_per_choice() -> None:
    lifecycle = _lifecycle(max_retries=1)
    _dispatch(lifecycle)
    lifecycle.lose(D0, "gone", 0.0)
    _dispatch(lifecycle, decode=D1)
    lifecycle.lose(D1, "gone too", 0.0)
    assert lifecycle.finished
    assert isinstance(lifecycle.failure, UnavailableError)
    assert "lost 2 times" in lifecycle.failure.message
    assert "d1: gone too" in lifecycle.failure.message
    assert lifecycle.finish_reasons() == [FINISH_REASON_ERROR]


def test_ends_of_workers_that_were_drained_are_not_counted() -> None:
    lifecycle = _lifecycle(max_retries=0)
    for worker in (D0, D1, D0):
        _dispatch(lifecycle, decode=worker)
        lifecycle.lose(worker, "closed the stream", 0.0, is_meant=True)
        assert not lifecycle.finished
    _dispatch(lifecycle)
    lifecycle.lose(D0, "gone", 0.0)
    assert lifecycle.finished


def test_preemptions_are_no_losses_and_wait_only_when_fruitless() -> None:
    lifecycle = _lifecycle(max_retries=0)
    _dispatch(lifecycle, prefill=None)
    lifecycle.accept(_tokens(0, 10), D0, 0.0)
    lifecycle.accept(_error("preempted"), D0, 1.0)
    [launch] = lifecycle.launches()
    assert launch.not_before_s == 1.0
    waits = []
    for attempt in range(1, 10):
        _dispatch(lifecycle, prefill=None)
        lifecycle.accept(_error("preempted", attempt=attempt), D0, 1.0)
        waits.append(lifecycle.launches()[0].not_before_s - 1.0)
    assert waits[:3] == pytest.approx([0.05, 0.1, 0.2])
    assert max(waits) == MAX_BACKOFF_S
    assert lifecycle.failure is None
    assert lifecycle.excluded == set()


def test_a_retryable_error_is_a_loss_and_another_ends_the_request() -> None:
    lifecycle = _lifecycle(max_retries=1)
    _dispatch(lifecycle)
    lifecycle.accept(_error("overloaded"), P0, 0.0)
    assert lifecycle.excluded == {P0, D0}
    assert [key for key, _ in lifecycle.take_aborts()] == [D0]
    _dispatch(lifecycle, prefill=P1)
    lifecycle.accept(_error("invalid_request", retryable=False, attempt=1), P1, 0.0)
    assert isinstance(lifecycle.failure, InvalidRequestError)
    assert sorted(key for key, _ in lifecycle.take_aborts()) == sorted([P0, P1, D0])


def test_a_lost_end_is_made_up_for_when_nothing_is_left_to_do() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle, prefill=None)
    lifecycle.accept(_tokens(0, *range(MAX_TOKENS)), D0, 0.0)
    [end] = lifecycle.lose(D0, "gone", 0.0)
    assert (end.index, list(end.token_ids), end.finish_reason) == (MAX_TOKENS, [], FINISH_REASON_LENGTH)
    assert lifecycle.finished
    stopped = _lifecycle(stop_token_ids=[7], max_retries=0)
    _dispatch(stopped, prefill=None)
    stopped.accept(_tokens(0, 5, 7), D0, 0.0)
    [end] = stopped.lose(D0, "gone", 0.0)
    assert (end.finish_reason, end.stop_reason) == (FINISH_REASON_STOP, "7")


def test_cached_tokens_are_counted_once_per_choice() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    first, again = _tokens(0, 10), _tokens(1, 11, attempt=1)
    first.num_cached_tokens, again.num_cached_tokens = 16, 32
    assert [output.num_cached_tokens for output in lifecycle.accept(first, P0, 0.0)] == [16]
    lifecycle.lose(D0, "gone", 0.0)
    _dispatch(lifecycle, decode=D1)
    assert [output.num_cached_tokens for output in lifecycle.accept(again, P0, 0.0)] == [0]


def test_a_choice_that_the_caller_ended_is_aborted_where_it_runs() -> None:
    lifecycle = _lifecycle(n=2)
    _dispatch(lifecycle)
    lifecycle.abort_choice(1)
    lifecycle.abort_choice(1)
    aborts = lifecycle.take_aborts()
    assert [(key, list(abort.choices)) for key, abort in aborts] == [(D0, [1]), (P0, [1])]
    assert lifecycle.accept(_tokens(0, 20, choice=1), P0, 0.0) == []
    assert not lifecycle.finished
    lifecycle.abort_choice(0)
    assert lifecycle.finished
    assert lifecycle.finish_reasons() == [FINISH_REASON_ABORT] * 2


def test_the_end_is_one_abort_to_every_worker_that_knew_it() -> None:
    lifecycle = _lifecycle(n=2)
    _dispatch(lifecycle)
    lifecycle.lose(D0, "gone", 0.0)
    _dispatch(lifecycle, decode=D1)
    lifecycle.end()
    aborts = lifecycle.take_aborts()
    assert [key for key, _ in aborts] == [D1, P0]
    assert {(abort.attempt, tuple(abort.choices)) for _, abort in aborts} == {(2, ())}
    lifecycle.end()
    lifecycle.fail(UnavailableError("too late"))
    assert lifecycle.take_aborts() == []
    assert lifecycle.failure is None


def test_what_ended_well_is_not_aborted() -> None:
    lifecycle = _lifecycle()
    _dispatch(lifecycle)
    lifecycle.accept(_tokens(0, 10, reason=FINISH_REASON_STOP), P0, 0.0)
    lifecycle.end()
    assert lifecycle.take_aborts() == []


def test_every_phase_has_its_moves_and_finished_has_none() -> None:
    assert set(MOVES) == set(Phase)
    assert MOVES[Phase.FINISHED] == set()
    assert all(Phase.FINISHED in moves for phase, moves in MOVES.items() if phase is not Phase.FINISHED)


WORKERS = [WorkerKey(f"w{number}", "x") for number in range(4)]


def _true_token(choice: int, position: int) -> int:
    return 1000 * (choice + 1) + position


class LifecycleMachine(RuleBasedStateMachine):
    """Two choices, four workers, every message late, early, twice or never; what is read must be the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle = _lifecycle(n=2, max_retries=3)
        self.read: list[list[int]] = [[], []]
        self.ends = [0, 0]
        self.attempts: list[tuple[int, int, int]] = []  # (choice, attempt, tokens inherited)
        self.newest = -1

    def _take(self, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            assert self.ends[output.choice] == 0
            assert output.index == len(self.read[output.choice])
            assert len(output.logprobs) == len(output.token_ids)
            self.read[output.choice] += output.token_ids
            self.ends[output.choice] += output.finish_reason != FINISH_REASON_UNSPECIFIED

    @rule(prefill=st.sampled_from([None, *WORKERS]), decode=st.sampled_from(WORKERS))
    def dispatch(self, prefill: WorkerKey | None, decode: WorkerKey) -> None:
        for submit in _dispatch(self.lifecycle, None if prefill == decode else prefill, decode):
            assert submit.attempt > self.newest
            self.newest = submit.attempt
            for start in submit.choices:
                assert list(start.output_token_ids) == self.read[start.choice]
                self.attempts.append((start.choice, submit.attempt, len(start.output_token_ids)))

    @precondition(lambda self: bool(self.attempts))
    @rule(data=st.data(), offset=st.integers(0, 5), count=st.integers(1, 4))
    def hear(self, data: st.DataObject, offset: int, count: int) -> None:
        choice, attempt, inherited = data.draw(st.sampled_from(self.attempts))
        start = min(inherited + offset, MAX_TOKENS - 1)
        end = min(start + count, MAX_TOKENS)
        reason = FINISH_REASON_LENGTH if end == MAX_TOKENS else FINISH_REASON_UNSPECIFIED
        tokens = [_true_token(choice, position) for position in range(start, end)]
        output = _tokens(start, *tokens, choice=choice, attempt=attempt, reason=reason)
        self._take(self.lifecycle.accept(output, WORKERS[0], 0.0))

    @precondition(lambda self: bool(self.attempts))
    @rule(data=st.data(), code=st.sampled_from(["preempted", "overloaded"]))
    def give_up(self, data: st.DataObject, code: str) -> None:
        choice, attempt, _ = data.draw(st.sampled_from(self.attempts))
        self._take(self.lifecycle.accept(_error(code, choice=choice, attempt=attempt), WORKERS[1], 0.0))

    @rule(worker=st.sampled_from(WORKERS))
    def lose(self, worker: WorkerKey) -> None:
        self._take(self.lifecycle.lose(worker, "gone", 0.0))
        assert worker not in self.lifecycle.workers()

    @rule(choice=st.integers(0, 1))
    def abort_choice(self, choice: int) -> None:
        if len(self.read[choice]) > 8:
            self.lifecycle.abort_choice(choice)

    @invariant()
    def delivers_the_truth_once(self) -> None:
        for choice in range(2):
            assert self.read[choice] == [_true_token(choice, n) for n in range(len(self.read[choice]))]
            assert list(self.lifecycle.tokens(choice)) == self.read[choice]
            if self.ends[choice]:
                assert self.lifecycle.phase(choice) is Phase.FINISHED
                assert len(self.read[choice]) == MAX_TOKENS

    @invariant()
    def is_ended_or_depends_on_somebody_or_waits_for_an_attempt(self) -> None:
        waiting = {choice for launch in self.lifecycle.launches() for choice in launch.choices}
        for choice in range(2):
            phase = self.lifecycle.phase(choice)
            assert (phase in (Phase.QUEUED, Phase.RETRYING)) == (choice in waiting)
        if not self.lifecycle.finished and not waiting:
            assert self.lifecycle.workers()
        if self.lifecycle.finished:
            assert not self.lifecycle.workers()
            assert not waiting


TestLifecycleMachine = LifecycleMachine.TestCase
TestLifecycleMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
