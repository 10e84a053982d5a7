"""The order of what happens at one instant, and what the trace's hash is of."""

from collections.abc import Callable
from typing import Any

from cluster.simulator.events import ARRIVAL, MESSAGE, EventQueue


class Log:
    def __init__(self) -> None:
        self.queue = EventQueue()
        self.seen: list[str] = []

    def named(self, name: str) -> Callable[[Any], None]:
        return lambda _: self.seen.append(name)

    def run(self) -> list[str]:
        while self.queue.run_next():
            pass
        return self.seen


def test_steps_end_after_the_news_of_their_instant_and_in_order_of_their_workers() -> None:
    log = Log()
    log.queue.push_step(1.0, 7, log.named("step of 7"))
    log.queue.push_step(1.0, 2, log.named("step of 2"))
    log.queue.push(1.0, MESSAGE, 0, log.named("first news"))
    log.queue.push(1.0, MESSAGE, 0, log.named("second news"))
    log.queue.push(0.5, ARRIVAL, 0, log.named("earlier"))
    assert log.run() == ["earlier", "first news", "second news", "step of 2", "step of 7"]


def test_what_is_cancelled_neither_happens_nor_moves_the_clock() -> None:
    log = Log()
    log.queue.push(1.0, MESSAGE, 0, log.named("kept"))
    log.queue.cancel(log.queue.push(2.0, MESSAGE, 0, log.named("cancelled")))
    assert log.queue.num_pending == 1
    assert log.run() == ["kept"]
    assert (log.queue.now_s, log.queue.num_events, log.queue.num_pending) == (1.0, 1, 0)


def test_a_step_that_would_end_now_has_passed_once_a_later_worker_s_has() -> None:
    queue = EventQueue()
    passed: list[list[bool]] = []
    queue.push(1.0, MESSAGE, 0, lambda _: passed.append([queue.has_passed(1.0, worker) for worker in (1, 4, 5)]))
    queue.push_step(1.0, 4, lambda _: passed.append([queue.has_passed(1.0, worker) for worker in (1, 4, 5)]))
    while queue.run_next():
        pass
    assert passed == [[False, False, False], [True, True, False]]


def test_the_hash_is_of_times_kinds_subjects_and_their_order() -> None:
    def trace(*events: tuple[float, int, int]) -> str:
        queue = EventQueue()
        for time_s, kind, subject in events:
            queue.push(time_s, kind, subject, lambda _: None)
        while queue.run_next():
            pass
        return queue.trace_hash()

    base = ((1.0, ARRIVAL, 1), (2.0, MESSAGE, 2))
    assert trace(*base) == trace(*base)
    others = [((1.0, ARRIVAL, 1),), ((1.0, ARRIVAL, 2), base[1]), ((1.5, ARRIVAL, 1), base[1]), (base[0], (2.0, 0, 2))]
    assert len({trace(*base), *(trace(*other) for other in others)}) == 5
