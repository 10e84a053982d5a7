"""How long hand-overs take, and what of that computing hides."""

from workers.kv_transfer.measures import SendingTimes, messages


def test_what_comes_after_the_prompt_is_computed_was_not_hidden() -> None:
    times = SendingTimes()
    times.offered("a", 1.0)
    times.ticketed("a", "shm", 1.5)
    times.pushes(["a"], 2.0)
    times.pushes(["a"], 2.5)
    times.sent("shm", 100)
    times.computed("a", 5.0)
    times.ended("a", "shm", 6.0, is_acked=True)
    (told,) = messages([times.by_transport])
    assert (told.transport, told.bytes_sent) == ("shm", 100)
    assert (told.ticket_s.sum, told.transfer_s.sum, told.exposed_s.sum) == (0.5, 4.0, 1.0)


def test_of_a_transfer_that_began_after_the_prompt_all_is_exposed() -> None:
    times = SendingTimes()
    times.offered("a", 1.0)
    times.computed("a", 2.0)
    times.pushes(["a"], 3.0)
    times.ended("a", "grpc", 5.0, is_acked=True)
    (told,) = messages([times.by_transport])
    assert told.transfer_s.sum == told.exposed_s.sum == 2.0


def test_one_that_failed_has_no_time_and_leaves_nothing_behind() -> None:
    times = SendingTimes()
    times.offered("a", 1.0)
    times.pushes(["a"], 2.0)
    times.ended("a", "", 0.0, is_acked=False)
    times.ended("a", "shm", 3.0, is_acked=True)
    assert messages([times.by_transport]) == []


def test_links_of_one_transport_are_told_together() -> None:
    one, two = SendingTimes(), SendingTimes()
    one.sent("shm", 1)
    two.sent("shm", 2)
    two.sent("grpc", 4)
    told = messages([one.by_transport, two.by_transport])
    assert [(each.transport, each.bytes_sent) for each in told] == [("grpc", 4), ("shm", 3)]
