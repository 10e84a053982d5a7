"""The receiver's book: what is whole, what is refused, and how transfers end in two steps."""

import pytest

from baton.errors import CancelledError, OverloadedError, UnavailableError
from baton.v1.worker_pb2 import Submit
from tests.unit.kv_transfer.books import HYBRID, KEY, OTHER, PEER, TOKENS, Peer
from workers.kv_transfer.handoff import HandoffError, State
from workers.kv_transfer.incoming import Incoming
from workers.kv_transfer.link import Arrived, Lost, Offered, TransferKey
from workers.model.contract import PayloadSpec

SUBMIT = Submit(request_id="r")
Book = Incoming[Peer]


def offered(payloads: tuple[PayloadSpec, ...] = TOKENS, *, max_pending: int = 4) -> Book:
    book = Book(payloads=payloads, lease_s=30, max_pending=max_pending)
    book.offer(KEY, PEER, SUBMIT, "i", 0.0)
    return book


def granted(num_cached: int = 0, payloads: tuple[PayloadSpec, ...] = TOKENS) -> Book:
    book = offered(payloads)
    book.poll()
    assert book.grant(KEY, (7, 8), num_cached, (3,)) == PEER
    return book


def test_a_transfer_is_whole_when_every_layer_is_there_and_the_counts_agree() -> None:
    book = granted(num_cached=2)
    assert book.receive(KEY, 0, 2, 5) == (7, 8)
    assert book.receive(KEY, 1, 2, 4) == (7, 8)
    with pytest.raises(HandoffError, match="r: complete with 5 tokens, but layer 1 has 4 of 5 tokens"):
        book.complete(KEY, 5, 2, ())
    book.receive(KEY, 1, 4, 5)
    with pytest.raises(HandoffError, match="complete after 4 ranges, but 3 came"):
        book.complete(KEY, 5, 4, ())
    assert book.complete(KEY, 5, 3, ((0, 1),))
    assert not book.complete(KEY, 5, 3, ((0, 1),))
    assert book.poll() == [Arrived(KEY, 5, ((0, 1),))]
    assert len(book) == 0


def test_a_transfer_with_a_state_is_whole_when_the_state_is_there_too() -> None:
    book = granted(5, HYBRID)
    with pytest.raises(HandoffError, match="layer 1 has 0 of 1 states"):
        book.complete(KEY, 5, 0, ())
    with pytest.raises(HandoffError, match=r"\[0, 2\) of payload 2 does not follow 0 states of layer 1"):
        book.receive(KEY, 2, 0, 2)
    assert book.receive(KEY, 2, 0, 1) == (3,)
    with pytest.raises(HandoffError, match=r"\[1, 2\) of payload 2 does not follow 1 states of layer 1"):
        book.receive(KEY, 2, 1, 2)
    assert book.complete(KEY, 5, 1, ())


def test_what_a_rank_has_not_sent_is_missed_by_its_name() -> None:
    book = granted(0, HYBRID)
    book.receive(KEY, 0, 0, 5)
    book.receive(KEY, 2, 0, 1)
    with pytest.raises(HandoffError, match="layer 0 has 0 of 5 tokens"):
        book.complete(KEY, 5, 2, ())


def test_a_range_of_a_payload_that_was_not_agreed_on_is_a_fault() -> None:
    with pytest.raises(HandoffError, match="payload 2 is none of 2"):
        granted().receive(KEY, 2, 0, 1)


def test_a_prompt_that_is_cached_whole_completes_without_a_range() -> None:
    assert granted(num_cached=5).complete(KEY, 5, 0, ())


@pytest.mark.parametrize(("start", "end"), [(1, 3), (0, 0), (3, 2)])
def test_a_range_out_of_order_is_a_fault(start: int, end: int) -> None:
    with pytest.raises(HandoffError, match="does not follow 0 tokens of layer 0"):
        granted().receive(KEY, 0, start, end)


def test_a_range_twice_is_a_fault() -> None:
    book = granted()
    book.receive(KEY, 0, 0, 3)
    with pytest.raises(HandoffError, match="does not follow 3 tokens"):
        book.receive(KEY, 0, 0, 3)


def test_a_range_without_a_ticket_is_a_fault_and_one_after_the_end_is_dropped() -> None:
    book = offered()
    with pytest.raises(HandoffError, match="before a ticket"):
        book.receive(KEY, 0, 0, 1)
    with pytest.raises(HandoffError, match="complete before a ticket"):
        book.complete(KEY, 1, 1, ())
    book.end(KEY, State.ABORTED, None)
    assert book.receive(KEY, 0, 0, 1) is None
    assert book.grant(KEY, (1,), 0) is None
    assert not book.complete(KEY, 1, 1, ())


def test_a_reservation_lives_as_long_as_it_is_renewed() -> None:
    book = granted()
    book.renew([KEY, TransferKey("unknown", 0, 0)], 20.0)
    assert book.expires_s(KEY) == 50.0
    assert book.overdue(KEY, 50.0) is None
    assert str(book.overdue(KEY, 50.1)) == "r: not renewed by peer-0 within 30 s"
    book.end(KEY, State.EXPIRED, None)
    assert book.overdue(KEY, 60.0) is None


def test_an_end_is_told_when_no_write_is_in_flight() -> None:
    book, error = granted(), UnavailableError("down")
    assert book.end(KEY, State.FAILED, error)
    assert not book.end(KEY, State.ABORTED, None)
    assert book.poll() == []
    assert (len(book), book.is_live(KEY), book.num_failed) == (1, False, 0)
    assert book.lost(KEY)
    assert not book.lost(KEY)
    assert book.poll() == [Lost(KEY, error)]
    assert (len(book), book.num_failed) == (0, 1)


def test_an_offer_that_ends_before_it_was_seen_is_taken_back() -> None:
    book = offered()
    book.end(KEY, State.FAILED, UnavailableError("down"))
    book.lost(KEY)
    assert book.poll() == []


def test_an_offer_that_is_aborted_before_it_was_seen_is_withheld() -> None:
    book = offered()
    assert book.abort(KEY, 0.0) == PEER
    assert book.poll() == []
    book.lost(KEY)
    assert book.poll() == []


def test_an_abort_of_what_is_ending_makes_its_loss_no_failure() -> None:
    book = granted()
    book.end(KEY, State.FAILED, UnavailableError("down"))
    assert book.abort(KEY, 0.0) is None  # the sender has been told
    book.lost(KEY)
    assert book.poll() == [Lost(KEY, None)]
    assert book.num_failed == 0


def test_an_abort_of_what_has_arrived_and_was_not_seen_makes_it_a_loss() -> None:
    book = granted(num_cached=5)
    book.complete(KEY, 5, 0, ())
    assert book.abort(KEY, 0.0) is None
    assert book.poll() == [Lost(KEY, None)]


def test_a_refusal_ends_an_offer_without_an_event() -> None:
    book = offered()
    assert [type(event) for event in book.poll()] == [Offered]
    assert book.refuse(KEY) == PEER
    assert book.refuse(KEY) is None
    assert not book.lost(KEY)
    assert book.poll() == []


def test_an_offer_is_refused_that_was_aborted_or_is_old_or_one_too_many_or_came_twice() -> None:
    book = offered(max_pending=2)
    with pytest.raises(HandoffError, match="r: offered twice"):
        book.offer(KEY, PEER, SUBMIT, "i", 0.0)
    aborted = TransferKey("s", 0, 0)
    assert book.abort(aborted, 0.0) is None
    with pytest.raises(CancelledError, match="s: aborted before its offer came"):
        book.offer(aborted, PEER, SUBMIT, "i", 1.0)
    book.offer(TransferKey("t", 1, 0), OTHER, SUBMIT, "i", 1.0)
    with pytest.raises(CancelledError, match="t: attempt 0 is older than attempt 1"):
        book.offer(TransferKey("t", 0, 0), PEER, SUBMIT, "i", 1.0)
    with pytest.raises(OverloadedError, match=r"2 offers wait here for blocks; kv.max_pending is 2"):
        book.offer(TransferKey("u", 0, 0), PEER, SUBMIT, "i", 1.0)
    assert (book.keys_from(PEER), book.keys_from(OTHER)) == ([KEY], [TransferKey("t", 1, 0)])


def test_a_state_without_a_place_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="no place for this one's"):
        offered(HYBRID).grant(KEY, (1,), 0)


def test_a_move_that_is_not_legal_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="RESERVED to RESERVED"):
        granted().grant(KEY, (1,), 0)
