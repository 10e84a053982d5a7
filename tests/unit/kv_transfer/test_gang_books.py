"""The books of a gang's transfers: many lanes, one transfer, whatever comes first."""

import random

import pytest

from baton.errors import BatonError, CancelledError, OverloadedError, UnavailableError
from baton.v1.worker_pb2 import Submit
from workers.kv_transfer.gang_incoming import Abort, Command, GangIncoming, Grant, Refuse
from workers.kv_transfer.gang_outgoing import GangOutgoing
from workers.kv_transfer.handoff import HandoffError
from workers.kv_transfer.lanes import Lane, lanes
from workers.kv_transfer.link import Acked, Arrived, Ended, Lost, Offered, Ticketed, TransferKey
from workers.model.places import Degrees

KEY = TransferKey("r", 0, 0)
LANES = lanes(Degrees(2), 4, [4])
LEADERS = LANES[0]
GRANT = Grant((3, 1), 0, ())
LEASE_S = 10.0


def outgoing() -> GangOutgoing:
    book = GangOutgoing()
    book.offer(KEY, LANES)
    return book


def incoming() -> GangIncoming:
    return GangIncoming(lanes_from=lambda senders: lanes(senders, 4, [4]), lease_s=LEASE_S)


def offer(book: GangIncoming, lane: Lane, now_s: float = 0.0) -> list[tuple[Lane, Command]]:
    return book.on_event(lane, Offered(KEY, Submit(), "i"), now_s)


# Out.


def test_a_transfer_is_ticketed_and_acked_once_all_its_lanes_are() -> None:
    book = outgoing()
    for kind in (Ticketed(KEY, 5), Acked(KEY)):
        for lane in LANES[:-1]:
            assert book.on_event(lane, kind) == []
        assert book.poll() == []
        assert book.on_event(LANES[-1], kind) == []
        assert book.poll() == [kind]
    assert KEY not in book


def test_a_lane_that_ends_withdraws_the_others_and_the_end_waits_for_them() -> None:
    book, error = outgoing(), UnavailableError("gone")
    book.on_event(LANES[0], Ticketed(KEY, 0))
    book.on_event(LANES[1], Acked(KEY))
    assert book.on_event(LANES[2], Ended(KEY, error)) == [LANES[0], LANES[3]]
    assert book.on_event(LANES[0], Ended(KEY, None)) == []
    assert book.poll() == []
    assert book.on_event(LANES[3], Acked(KEY)) == []
    assert book.poll() == [Ended(KEY, error)]
    assert book.num_failed == 1
    assert not len(book)


def test_a_failure_is_told_rather_than_the_abort_that_it_caused_elsewhere() -> None:
    book, error = outgoing(), OverloadedError("no blocks")
    book.on_event(LANES[0], Ended(KEY, CancelledError("aborted there")))
    for lane in LANES[1:]:
        book.on_event(lane, Ended(KEY, error))
    assert book.poll() == [Ended(KEY, error)]


def test_the_engines_abort_ends_without_an_error_whatever_the_lanes_tell() -> None:
    book = outgoing()
    book.on_event(LANES[0], Acked(KEY))
    assert book.abort(KEY) == list(LANES[1:])
    assert book.abort(KEY) == []
    assert book.lanes(KEY) == []
    for lane in LANES[1:]:
        book.on_event(lane, Ended(KEY, UnavailableError("gone")))
    assert book.poll() == [Ended(KEY, None)]
    assert book.num_failed == 0


def test_tickets_that_disagree_end_the_transfer() -> None:
    book = outgoing()
    book.on_event(LANES[0], Ticketed(KEY, 4))
    assert book.on_event(LANES[1], Ticketed(KEY, 8)) == list(LANES)
    for lane in LANES:
        book.on_event(lane, Ended(KEY, None))
    (ended,) = book.poll()
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, HandoffError)
    assert "4 and 8 cached tokens" in ended.error.message


# In.


def test_lanes_are_granted_as_they_are_offered_and_arrive_together() -> None:
    book, arrived = incoming(), Arrived(KEY, 9, ((0, 1),))
    assert offer(book, LANES[2]) == []
    assert book.poll() == [], "the leaders' lane brings the request"
    assert offer(book, LEADERS) == []
    assert [event.key for event in book.poll()] == [KEY]
    assert sorted(book.grant(KEY, GRANT)) == [(LANES[0], GRANT), (LANES[2], GRANT)]
    assert offer(book, LANES[1]) == [(LANES[1], GRANT)]
    assert offer(book, LANES[3]) == [(LANES[3], GRANT)]
    for lane in LANES:
        assert book.poll() == []
        assert book.on_event(lane, arrived, 0.0) == []
    assert book.poll() == [arrived]
    assert KEY not in book


def test_a_lane_that_is_lost_ends_the_others_and_late_ones_are_refused() -> None:
    book, error = incoming(), UnavailableError("gone")
    for lane in LANES[:3]:
        offer(book, lane)
    book.poll()
    book.grant(KEY, GRANT)
    assert book.on_event(LANES[1], Lost(KEY, error), 0.0) == [(LANES[0], Abort(error)), (LANES[2], Abort(error))]
    assert offer(book, LANES[3]) == [(LANES[3], Refuse(error))]
    book.on_event(LANES[0], Arrived(KEY, 9, ()), 0.0)
    assert book.poll() == []
    book.on_event(LANES[2], Lost(KEY, None), 0.0)
    assert book.poll() == [Lost(KEY, error)]
    assert book.num_failed == 1
    ((lane, refusal),) = offer(book, LANES[3])
    assert lane == LANES[3]
    assert isinstance(refusal, Refuse)


def test_an_offer_lost_before_it_was_seen_is_taken_back() -> None:
    book = incoming()
    offer(book, LEADERS)
    assert book.on_event(LEADERS, Lost(KEY, UnavailableError("gone")), 0.0) == []
    assert book.poll() == []
    assert not len(book)


def test_a_grant_or_refusal_of_what_was_lost_meanwhile_does_nothing_more() -> None:
    for is_refused in (False, True):
        book = incoming()
        offer(book, LEADERS)
        book.poll()
        book.on_event(LEADERS, Lost(KEY, None), 0.0)
        told = book.refuse(KEY, OverloadedError("full"), 0.0) if is_refused else book.grant(KEY, GRANT)
        assert told == []
        assert book.poll() == ([] if is_refused else [Lost(KEY, None)])


def test_a_refusal_ends_all_lanes_at_once_and_without_an_event() -> None:
    book, error = incoming(), OverloadedError("full")
    for lane in LANES[:2]:
        offer(book, lane)
    book.poll()
    assert book.refuse(KEY, error, 0.0) == [(lane, Refuse(error)) for lane in LANES[:2]]
    assert book.poll() == []
    assert not len(book)
    assert offer(book, LANES[2], LEASE_S / 2) == [(LANES[2], Refuse(error))], "a late lane is told the same"


def test_an_abort_is_remembered_for_a_lease_and_turns_what_arrived_unseen_into_a_loss() -> None:
    book = incoming()
    book.abort(KEY, 0.0)
    ((_, refusal),) = offer(book, LEADERS, LEASE_S / 2)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, CancelledError)
    other = incoming()
    for lane in LANES:
        offer(other, lane)
    other.poll()
    other.grant(KEY, GRANT)
    for lane in LANES:
        other.on_event(lane, Arrived(KEY, 9, ()), 0.0)
    assert other.abort(KEY, 0.0) == []
    assert other.poll() == [Lost(KEY, None)]


def test_lanes_that_bring_different_first_tokens_end_the_transfer() -> None:
    book = incoming()
    for lane in LANES:
        offer(book, lane)
    book.poll()
    book.grant(KEY, GRANT)
    book.on_event(LANES[0], Arrived(KEY, 9, ((0, 1),)), 0.0)
    told = book.on_event(LANES[1], Arrived(KEY, 9, ((0, 2),)), 0.0)
    assert [(lane, type(command)) for lane, command in told] == [(LANES[2], Abort), (LANES[3], Abort)]
    for lane in LANES[2:]:
        book.on_event(lane, Lost(KEY, None), 0.0)
    (lost,) = book.poll()
    assert isinstance(lost, Lost)
    assert isinstance(lost.error, HandoffError)


def test_a_lane_that_is_not_offered_within_a_lease_ends_the_transfer() -> None:
    book = incoming()
    for lane in LANES[:3]:
        offer(book, lane)
    book.poll()
    book.grant(KEY, GRANT)
    assert book.overdue(LEASE_S) == {}
    told = book.overdue(LEASE_S + 1)[KEY]
    assert [(lane, type(command)) for lane, command in told] == [(lane, Abort) for lane in LANES[:3]]
    for lane in LANES[:3]:
        book.on_event(lane, Lost(KEY, None), LEASE_S + 1)
    (lost,) = book.poll()
    assert isinstance(lost, Lost)
    assert "rank 1 of 2 to rank 3 of 4 was not offered within 10 s" in str(lost.error)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_comes_first_each_transfer_ends_once_and_no_lane_is_left_open(seed: int) -> None:
    """Lanes are played: each does what it is told, or fails, after others did."""
    rng = random.Random(seed)
    book = incoming()
    errors: list[BatonError | None] = [UnavailableError("gone"), CancelledError("aborted there"), None]
    todo = [(lane, "offer") for lane in LANES]  # what each lane does next
    granted: set[Lane] = set()
    events = []
    num_said = 0

    def take(commands: list[tuple[Lane, Command]]) -> None:
        for lane, command in commands:
            if isinstance(command, Grant):
                assert lane not in granted
                granted.add(lane)
                todo.append((lane, rng.choice(["arrive", "arrive", "arrive", "lose"])))
            elif isinstance(command, Refuse):
                assert lane not in granted
            elif (lane, "arrive") in todo:
                todo.append((lane, "lose"))

    while todo or num_said < 1:
        news = book.poll()
        events += news
        if any(isinstance(event, Offered) for event in news) or (not todo and num_said < 1):
            num_said += 1
            said = rng.choice(["grant", "grant", "grant", "refuse", "abort"])
            take(
                book.grant(KEY, GRANT)
                if said == "grant"
                else book.refuse(KEY, OverloadedError("full"), 0.0)
                if said == "refuse"
                else book.abort(KEY, 0.0)
            )
        if not todo:
            break
        lane, act = todo.pop(rng.randrange(len(todo)))
        if act == "offer":
            take(offer(book, lane))
        elif lane in granted:
            granted.remove(lane)
            end = Arrived(KEY, 9, ()) if act == "arrive" else Lost(KEY, rng.choice(errors))
            take(book.on_event(lane, end, 0.0))
        if rng.random() < 0.05:
            take(book.abort(KEY, 0.0))
    events += book.poll()
    assert not granted
    assert not len(book)
    ends = [event for event in events if isinstance(event, Arrived | Lost)]
    assert len(ends) <= sum(isinstance(event, Offered) for event in events) <= 1
