"""Admission: bounds, order, shedding."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.errors import OverloadedError
from cluster.router.admission import MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, Admission


def test_a_pause_before_the_queue_is_not_part_of_its_drain_rate() -> None:
    admission = Admission(max_running=2, max_queue=2)
    admission.arrive("early", deadline_s=1e9, now_s=0.0)
    admission.leave("early", now_s=1.0)
    for number in range(4):
        admission.arrive(f"r{number}", deadline_s=1e9, now_s=500.0)
    with pytest.raises(OverloadedError) as at_once:
        admission.arrive("x", deadline_s=1e9, now_s=500.0)
    assert at_once.value.retry_after_s == MIN_RETRY_AFTER_S
    admission.leave("r0", now_s=503.0)
    admission.arrive("r4", deadline_s=1e9, now_s=503.0)
    with pytest.raises(OverloadedError, match="try again in 2 s") as measured:
        admission.arrive("x", deadline_s=1e9, now_s=503.9)
    assert measured.value.retry_after_s == pytest.approx(2 * 0.9)


def test_requests_run_up_to_the_bound_then_wait_in_order() -> None:
    admission = Admission(max_running=1, max_queue=2)
    assert admission.arrive("a", deadline_s=9.0, now_s=0.0)
    assert not admission.arrive("b", deadline_s=9.0, now_s=0.0)
    assert not admission.arrive("c", deadline_s=9.0, now_s=0.0)
    assert admission.leave("a", now_s=1.0) == ["b"]
    assert admission.leave("b", now_s=2.0) == ["c"]
    assert admission.leave("c", now_s=3.0) == []


def test_leaving_twice_or_from_the_queue_admits_nobody() -> None:
    admission = Admission(max_running=1, max_queue=2)
    for name in "abc":
        admission.arrive(name, deadline_s=9.0, now_s=0.0)
    assert admission.leave("b", now_s=1.0) == []
    assert admission.leave("a", now_s=1.0) == ["c"]
    assert admission.leave("a", now_s=1.0) == []
    assert admission.leave("nobody", now_s=1.0) == []
    assert (admission.num_running, admission.num_queued) == (1, 0)


def test_a_full_queue_sheds_with_the_time_it_takes_to_drain() -> None:
    admission = Admission(max_running=4, max_queue=10)
    for number in range(14):
        admission.arrive(f"r{number}", deadline_s=1e9, now_s=0.0)
    with pytest.raises(OverloadedError, match=r"router\.max_queue: 10") as first:
        admission.arrive("x", deadline_s=1e9, now_s=0.0)
    assert first.value.retry_after_s == MIN_RETRY_AFTER_S
    for number in range(4):
        admission.leave(f"r{number}", now_s=2.0 * number)
        admission.arrive(f"s{number}", deadline_s=1e9, now_s=2.0 * number)
    with pytest.raises(OverloadedError) as later:
        admission.arrive("x", deadline_s=1e9, now_s=8.0)
    assert later.value.retry_after_s == pytest.approx(10 * 8.0 / 4)
    with pytest.raises(OverloadedError) as stuck:
        admission.arrive("x", deadline_s=1e9, now_s=800.0)
    assert stuck.value.retry_after_s == MAX_RETRY_AFTER_S
    assert admission.num_shed == 3


def test_a_deadline_leaves_the_queue() -> None:
    admission = Admission(max_running=1, max_queue=3)
    for name, deadline_s in (("a", 1.0), ("b", 5.0), ("c", 2.0), ("d", 1.0)):
        admission.arrive(name, deadline_s=deadline_s, now_s=0.0)
    assert admission.expire(now_s=2.0) == ["c", "d"]
    assert admission.expire(now_s=2.0) == []
    assert admission.leave("a", now_s=2.0) == ["b"]


class AdmissionMachine(RuleBasedStateMachine):
    """Against a model: two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(max_running=3, max_queue=4)
        self.running: list[str] = []
        self.queued: list[tuple[str, float]] = []
        self.now_s = 0.0
        self.count = 0

    @rule(patience_s=st.floats(0.0, 10.0))
    def arrive(self, patience_s: float) -> None:
        self.count += 1
        name, deadline_s = f"r{self.count}", self.now_s + patience_s
        if len(self.running) < 3:
            assert self.admission.arrive(name, deadline_s=deadline_s, now_s=self.now_s)
            self.running.append(name)
        elif len(self.queued) < 4:
            assert not self.admission.arrive(name, deadline_s=deadline_s, now_s=self.now_s)
            self.queued.append((name, deadline_s))
        else:
            with pytest.raises(OverloadedError) as shed:
                self.admission.arrive(name, deadline_s=deadline_s, now_s=self.now_s)
            assert MIN_RETRY_AFTER_S <= shed.value.retry_after_s <= MAX_RETRY_AFTER_S

    @rule(number=st.integers(0, 40))
    def leave(self, number: int) -> None:
        name = f"r{number}"
        expected = []
        if name in self.running:
            self.running.remove(name)
            if self.queued:
                expected = [self.queued.pop(0)[0]]
                self.running += expected
        self.queued = [one for one in self.queued if one[0] != name]
        assert self.admission.leave(name, now_s=self.now_s) == expected

    @rule(elapsed_s=st.floats(0.0, 3.0))
    def wait(self, elapsed_s: float) -> None:
        self.now_s += elapsed_s
        expired = [name for name, deadline_s in self.queued if deadline_s <= self.now_s]
        self.queued = [one for one in self.queued if one[0] not in expired]
        assert self.admission.expire(self.now_s) == expired

    @invariant()
    def counts_agree(self) -> None:
        assert self.admission.num_running == len(self.running) <= 3
        assert self.admission.num_queued == len(self.queued) <= 4
        assert not self.queued or len(self.running) == 3
        assert all(self.admission.is_queued(name) for name, _ in self.queued)


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_limits_that_rise_let_in_who_waits_and_those_that_fall_throw_nobody_out() -> None:
    admission = Admission(max_running=1, max_queue=4)
    for name in "abcd":
        admission.arrive(name, deadline_s=9.0, now_s=0.0)
    assert admission.tune(max_running=3, max_queue=4) == ["b", "c"]
    assert admission.tune(max_running=1, max_queue=0) == []
    assert (admission.num_running, admission.num_queued) == (3, 1)
    assert admission.leave("a", now_s=1.0) == []
    with pytest.raises(OverloadedError, match=r"router\.max_queue: 0"):
        admission.arrive("e", deadline_s=9.0, now_s=1.0)
    assert admission.leave("b", now_s=1.0) == []
    assert admission.leave("c", now_s=1.0) == ["d"]
