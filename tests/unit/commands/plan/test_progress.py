"""What a long search says while it goes on."""

from collections.abc import Iterator

from cluster.commands.plan.progress import Trials


def test_what_ends_is_counted_and_told_now_and_then() -> None:
    said: list[str] = []
    times_s: Iterator[float] = iter([0.0, 1.0, 4.0, 12.0, 13.0, 24.0])
    trials = Trials(said.append, every_s=10.0, now_s=lambda: next(times_s))
    trials.note("prefill: 9 kinds of workers")
    assert list(trials.counted(map)(abs, [-1, -2, -3, -4])) == [1, 2, 3, 4]
    assert said == [
        "prefill: 9 kinds of workers",
        "prefill: 9 kinds of workers; 2 tried, 12 s so far",
        "prefill: 9 kinds of workers; 4 tried, 24 s so far",
    ]
