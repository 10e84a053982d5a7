"""The log of what happened is bounded, and read from where one left off."""

from cluster.contracts.events import EventKind, EventLog


def test_the_newest_events_are_kept_and_read_on_from_a_number() -> None:
    log = EventLog(max_events=3)
    for number in range(1, 6):
        assert log.tell(EventKind.NODE, "n", f"step {number}", 1.0).number == number
    assert [event.number for event in log.after(0)] == [3, 4, 5]
    assert [event.text for event in log.after(4)] == ["step 5"]
    assert log.after(5) == ()
