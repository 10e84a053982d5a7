"""The sender's book: what is pushed when, what is waited for, and how transfers end."""

import pytest

from baton.errors import CancelledError, UnavailableError
from tests.unit.kv_transfer.books import HYBRID, KEY, OTHER, PEER, TOKENS, Peer
from workers.kv_transfer.handoff import LEGAL_MOVES, HandoffError, State
from workers.kv_transfer.link import Acked, Ended, Ticketed
from workers.kv_transfer.outgoing import Outgoing, Span

BIG = 1 << 30
Book = Outgoing[Peer]


def offered(num_tokens: int, *, bulk: bool = False) -> Book:
    book = Book(payloads=TOKENS, lease_s=30, bulk=bulk)
    book.offer(KEY, PEER, num_tokens=num_tokens, timeout_s=60, now_s=0.0)
    return book


def hybrid(num_tokens: int, *, num_cached: int = 0) -> Book:
    book = Book(payloads=HYBRID, lease_s=30)
    book.offer(KEY, PEER, num_tokens=num_tokens, timeout_s=60, now_s=0.0)
    book.ticket(KEY, num_cached)
    return book


def compute(book: Book, num_tokens: int) -> None:
    for layer in range(2):
        book.computed(KEY, layer, num_tokens, (0, 1))


def close(book: Book, num_tokens: int, now_s: float) -> None:
    compute(book, num_tokens)
    book.complete(KEY, num_tokens, [])
    book.take(KEY, BIG)
    assert book.close(KEY, now_s) is not None


def cursors(spans: list[Span]) -> list[tuple[int, int, int]]:
    return [(span.index, span.start, span.end) for span in spans]


def test_nothing_is_pushed_before_the_ticket_and_all_of_it_after() -> None:
    book = offered(7)
    compute(book, 7)
    assert book.take(KEY, BIG) == []
    assert book.ticket(KEY, 0)
    assert not book.ticket(KEY, 0)
    assert cursors(book.take(KEY, BIG)) == [(0, 0, 7), (1, 0, 7)]
    assert book.take(KEY, BIG) == []
    assert book.poll() == [Ticketed(KEY, 0)]


def test_a_state_is_pushed_once_whole_and_from_its_own_place_after_the_last_token_of_its_layer() -> None:
    book = hybrid(7, num_cached=5)  # a state of a prefix would be no part of it
    book.computed(KEY, 0, 6, (1, 2), (9,))
    book.computed(KEY, 1, 6, (1, 2), (9,))
    assert cursors(book.take(KEY, BIG)) == [(0, 5, 6), (1, 5, 6)]
    book.computed(KEY, 1, 7, (1, 2), (9,))
    assert book.take(KEY, BIG) == [Span(KEY, 2, 0, 1, (9,))]
    with pytest.raises(HandoffError, match="r: complete with 7 tokens, but layer 0 has 6 of 7 tokens"):
        book.complete(KEY, 7, [])
    book.computed(KEY, 0, 7, (1, 2), (9,))
    assert cursors(book.take(KEY, BIG)) == [(0, 6, 7), (1, 6, 7)]
    book.complete(KEY, 7, [])
    assert book.close(KEY, 0.0) == (7, 5, ())


def test_a_state_that_is_larger_than_the_room_is_pushed_all_the_same_but_alone() -> None:
    book = hybrid(7, num_cached=6)
    book.computed(KEY, 1, 7, (1, 2), (9,))
    assert cursors(book.take(KEY, 30)) == [(2, 0, 1)]
    other = hybrid(7, num_cached=6)
    for layer in range(2):
        other.computed(KEY, layer, 7, (1, 2), (9,))
    assert cursors(other.take(KEY, 30)) == [(0, 6, 7), (1, 6, 7)]
    assert cursors(other.take(KEY, 30)) == [(2, 0, 1)]


def test_a_state_that_is_missing_is_named_with_its_rank() -> None:
    book = hybrid(7)
    book.computed(KEY, 0, 7, (1, 2), (9,))
    with pytest.raises(HandoffError, match="but layer 1 has 0 of 1 states"):
        book.complete(KEY, 7, [])


def test_a_cached_prefix_is_skipped_even_when_it_is_longer_than_what_is_computed() -> None:
    book = offered(7)
    book.ticket(KEY, 5)
    compute(book, 3)
    assert book.take(KEY, BIG) == []
    compute(book, 7)
    assert cursors(book.take(KEY, BIG)) == [(0, 5, 7), (1, 5, 7)]


def test_ranges_are_cut_to_the_room_there_is() -> None:
    book = offered(7)
    book.ticket(KEY, 0)
    compute(book, 7)
    assert cursors(book.take(KEY, 50)) == [(0, 0, 5)]
    assert cursors(book.take(KEY, 45)) == [(0, 5, 7), (1, 0, 1)]
    assert cursors(book.take(KEY, 5)) == [(1, 1, 2)]


def test_small_pushes_wait_for_more_until_the_prompt_is_computed() -> None:
    book = offered(5)
    book.ticket(KEY, 0)
    compute(book, 3)
    assert book.take(KEY, BIG, min_bytes=100) == []
    compute(book, 4)
    assert cursors(book.take(KEY, BIG, min_bytes=100)) == [(0, 0, 4), (1, 0, 4)]
    compute(book, 5)
    assert book.take(KEY, BIG, min_bytes=100) == []
    book.complete(KEY, 5, [(0, 1)])
    assert cursors(book.take(KEY, BIG, min_bytes=100)) == [(0, 4, 5), (1, 4, 5)]


def test_bulk_waits_for_the_end_of_the_prompt() -> None:
    book = offered(6, bulk=True)
    book.ticket(KEY, 0)
    compute(book, 6)
    assert book.take(KEY, BIG) == []
    book.complete(KEY, 6, [(0, 1)])
    assert cursors(book.take(KEY, BIG)) == [(0, 0, 6), (1, 0, 6)]


def test_the_closing_word_comes_once_and_counts_the_ranges() -> None:
    book = offered(4)
    book.ticket(KEY, 0)
    compute(book, 4)
    book.take(KEY, BIG)
    assert book.close(KEY, 1.0) is None
    book.complete(KEY, 4, [(0, 9), (1, 8)])
    assert book.close(KEY, 1.0) == (4, 2, ((0, 9), (1, 8)))
    assert book.close(KEY, 1.0) is None


def test_complete_before_every_layer_is_computed_is_refused() -> None:
    book = offered(4)
    book.computed(KEY, 0, 4, (0,))
    with pytest.raises(HandoffError, match="complete with 4 tokens, but layer 1 has 0 of 4 tokens"):
        book.complete(KEY, 4, [])


def test_complete_with_another_number_than_was_offered_is_refused() -> None:
    book = offered(4)
    compute(book, 3)
    with pytest.raises(HandoffError, match="complete with 3 tokens, but 4 were offered"):
        book.complete(KEY, 3, [])


def test_a_ticket_is_waited_for_until_the_deadline_and_an_ack_for_a_lease() -> None:
    book = offered(1)
    assert book.overdue(KEY, 59.9) is None
    assert str(book.overdue(KEY, 60.0)) == "r waited for blocks of peer-0 in vain"
    book.ticket(KEY, 0)
    assert book.overdue(KEY, 1000.0) is None
    close(book, 1, now_s=1000.0)
    assert book.overdue(KEY, 1029.9) is None
    assert str(book.overdue(KEY, 1030.0)) == "r waited for an ack for 30 s of peer-0 in vain"
    book.end(KEY, State.EXPIRED)
    assert book.overdue(KEY, 2000.0) is None


def test_an_offer_without_a_timeout_waits_for_a_lease() -> None:
    book = Book(payloads=TOKENS, lease_s=30)
    book.offer(KEY, PEER, num_tokens=1, timeout_s=0.0, now_s=5.0)
    assert book.overdue(KEY, 34.9) is None
    assert book.overdue(KEY, 35.0) is not None


def test_an_ack_before_complete_is_not_believed() -> None:
    book = offered(1)
    book.ticket(KEY, 0)
    assert not book.end(KEY, State.COMPLETE)
    assert KEY in book
    close(book, 1, now_s=0.0)
    assert book.end(KEY, State.COMPLETE)
    assert KEY not in book
    assert book.poll()[-1:] == [Acked(KEY)]
    assert book.num_failed == 0


def test_a_transfer_ends_once_and_failures_are_counted() -> None:
    book, error = offered(1), UnavailableError("down")
    assert book.end(KEY, State.FAILED, error)
    assert not book.end(KEY, State.FAILED, error)
    assert not book.abort(KEY)
    assert book.poll() == [Ended(KEY, error)]
    assert book.poll() == []
    assert book.num_failed == 1
    book.refuse(KEY, UnavailableError("no link"))
    assert book.num_failed == 2


def test_what_ends_after_an_abort_ends_without_an_error() -> None:
    book = offered(1)
    assert book.abort(KEY)
    assert not book.abort(KEY)
    book.end(KEY, State.FAILED, UnavailableError("down"))
    assert book.poll() == [Ended(KEY, None)]
    assert book.num_failed == 0


def test_an_abort_of_the_other_side_is_no_failure() -> None:
    book, error = offered(1), CancelledError("gone")
    book.end(KEY, State.FAILED, error)
    assert book.poll() == [Ended(KEY, error)]
    assert book.num_failed == 0


def test_transfers_are_told_apart_by_peer() -> None:
    book, other = offered(1), KEY._replace(request_id="s")
    book.offer(other, OTHER, num_tokens=1, timeout_s=0.0, now_s=0.0)
    assert (book.keys_to(PEER), book.keys_to(OTHER)) == ([KEY], [other])
    assert (book.peer_of(other), book.peer_of(KEY._replace(attempt=1))) == (OTHER, None)


def test_a_state_without_a_place_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="no place of this one's"):
        hybrid(7).computed(KEY, 0, 7, (1, 2))


def test_ends_are_final() -> None:
    for state in (State.COMPLETE, State.FAILED, State.ABORTED, State.EXPIRED):
        assert LEGAL_MOVES[state] == frozenset()


def test_a_unit_that_is_more_than_a_message_has_left_waits_for_one_of_its_own() -> None:
    book = offered(7)
    compute(book, 7)
    book.ticket(KEY, 0)
    assert book.take(KEY, 1, is_first=False) == []
    assert book.is_ready(KEY)
    assert cursors(book.take(KEY, 1)) == [(0, 0, 1)]
