"""The pure part of hand-overs: cursors, leases, tombstones, and every legal and illegal move."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workers.kv_transfer.handoff import LEGAL_MOVES, HandoffError, ReceiveLedger, SendLedger, Span, State, Tombstones
from workers.kv_transfer.link import TransferKey
from workers.model.contract import PayloadSpec, Unit

KEY = TransferKey("r", 0, 0)
BIG = 1 << 30
TOKENS = tuple(PayloadSpec(layer=layer, unit_nbytes=10 * (layer + 1), layout="kv") for layer in range(2))
HYBRID = (
    PayloadSpec(layer=0, unit_nbytes=3, layout="kv"),
    PayloadSpec(layer=0, rank=1, unit_nbytes=5, layout="kv"),
    PayloadSpec(layer=1, unit=Unit.STATE, unit_nbytes=40, layout="state"),
)


def make_sender(num_tokens: int, *, bulk: bool = False, min_push_bytes: int = 0) -> SendLedger:
    sender = SendLedger(payloads=TOKENS, lease_s=30, bulk=bulk, min_push_bytes=min_push_bytes)
    sender.offer(KEY, num_tokens, deadline_s=60)
    return sender


def compute(sender: SendLedger, num_tokens: int) -> None:
    for layer in range(2):
        sender.computed(KEY, layer, num_tokens, (0, 1))


def cursors(spans: list[Span]) -> list[tuple[int, int, int]]:
    return [(span.index, span.start, span.end) for span in spans]


def test_nothing_is_pushed_before_the_ticket_and_all_of_it_after() -> None:
    sender = make_sender(7)
    compute(sender, 7)
    assert sender.take(KEY, BIG) == []
    assert sender.ticket(KEY, 0)
    assert cursors(sender.take(KEY, BIG)) == [(0, 0, 7), (1, 0, 7)]
    assert sender.take(KEY, BIG) == []


def test_a_state_is_pushed_once_whole_and_from_its_own_place_after_the_last_token_of_its_layer() -> None:
    sender = SendLedger(payloads=HYBRID, lease_s=30)
    sender.offer(KEY, 7, deadline_s=60)
    sender.ticket(KEY, 5)  # a state of a prefix would be no part of it
    sender.computed(KEY, 0, 6, (1, 2), (9,))
    sender.computed(KEY, 1, 6, (1, 2), (9,))
    assert cursors(sender.take(KEY, BIG)) == [(0, 5, 6), (1, 5, 6)]
    sender.computed(KEY, 1, 7, (1, 2), (9,))
    assert sender.take(KEY, BIG) == [Span(KEY, 2, 0, 1, (9,))]
    with pytest.raises(HandoffError, match="complete with 7 tokens, but layer 0 has 6 of 7 tokens"):
        sender.complete(KEY, 7, [])
    sender.computed(KEY, 0, 7, (1, 2), (9,))
    assert cursors(sender.take(KEY, BIG)) == [(0, 6, 7), (1, 6, 7)]
    sender.complete(KEY, 7, [])
    assert sender.close(KEY, 0.0) == (7, 5, ())


def test_a_state_that_is_larger_than_the_room_is_pushed_all_the_same_but_alone() -> None:
    sender = SendLedger(payloads=HYBRID, lease_s=30)
    sender.offer(KEY, 7, deadline_s=60)
    sender.ticket(KEY, 7)
    sender.computed(KEY, 1, 7, (1, 2), (9,))
    assert cursors(sender.take(KEY, 30)) == [(2, 0, 1)]


def test_a_cached_prefix_is_skipped_even_when_it_is_longer_than_what_is_computed() -> None:
    sender = make_sender(7)
    sender.ticket(KEY, 5)
    compute(sender, 3)
    assert sender.take(KEY, BIG) == []
    compute(sender, 7)
    assert cursors(sender.take(KEY, BIG)) == [(0, 5, 7), (1, 5, 7)]


def test_ranges_are_cut_to_the_room_there_is() -> None:
    sender = make_sender(7)
    sender.ticket(KEY, 0)
    compute(sender, 7)
    assert cursors(sender.take(KEY, 50)) == [(0, 0, 5)]
    assert cursors(sender.take(KEY, 45)) == [(0, 5, 7), (1, 0, 1)]
    assert cursors(sender.take(KEY, 5)) == [(1, 1, 2)]


def test_small_pushes_wait_for_more_until_the_prompt_is_computed() -> None:
    sender = make_sender(5, min_push_bytes=100)
    sender.ticket(KEY, 0)
    compute(sender, 3)
    assert sender.take(KEY, BIG) == []
    compute(sender, 4)
    assert cursors(sender.take(KEY, BIG)) == [(0, 0, 4), (1, 0, 4)]
    compute(sender, 5)
    assert sender.take(KEY, BIG) == []
    sender.complete(KEY, 5, [(0, 1)])
    assert cursors(sender.take(KEY, BIG)) == [(0, 4, 5), (1, 4, 5)]


def test_bulk_waits_for_the_end_of_the_prompt() -> None:
    sender = make_sender(6, bulk=True)
    sender.ticket(KEY, 0)
    compute(sender, 6)
    assert sender.take(KEY, BIG) == []
    sender.complete(KEY, 6, [(0, 1)])
    assert cursors(sender.take(KEY, BIG)) == [(0, 0, 6), (1, 0, 6)]


def test_the_closing_word_comes_once_and_counts_the_ranges() -> None:
    sender = make_sender(4)
    sender.ticket(KEY, 0)
    compute(sender, 4)
    sender.take(KEY, BIG)
    assert sender.close(KEY, 1.0) is None
    sender.complete(KEY, 4, [(0, 9), (1, 8)])
    assert sender.close(KEY, 1.0) == (4, 2, ((0, 9), (1, 8)))
    assert sender.close(KEY, 1.0) is None


def test_complete_before_every_layer_is_computed_is_refused() -> None:
    sender = make_sender(4)
    sender.computed(KEY, 0, 4, (0,))
    with pytest.raises(HandoffError, match="complete with 4 tokens, but layer 1 has 0 of 4 tokens"):
        sender.complete(KEY, 4, [])


def test_complete_with_another_number_than_was_offered_is_refused() -> None:
    sender = make_sender(4)
    compute(sender, 3)
    with pytest.raises(HandoffError, match="complete with 3 tokens, but 4 were offered"):
        sender.complete(KEY, 3, [])


def test_the_sender_waits_for_a_ticket_until_the_deadline_and_for_an_ack_for_a_lease() -> None:
    sender = make_sender(1)
    assert sender.overdue(60.0) == []
    assert sender.overdue(60.1) == [KEY]
    sender.ticket(KEY, 0)
    assert sender.overdue(1000.0) == []
    compute(sender, 1)
    sender.complete(KEY, 1, [])
    sender.take(KEY, BIG)
    sender.close(KEY, 1000.0)
    assert sender.overdue(1030.0) == []
    assert sender.overdue(1030.1) == [KEY]


def test_an_ack_before_complete_is_not_believed() -> None:
    sender = make_sender(1)
    sender.ticket(KEY, 0)
    assert not sender.end(KEY, State.COMPLETE)
    assert KEY in sender


def make_receiver(num_cached: int = 0) -> ReceiveLedger:
    receiver = ReceiveLedger(payloads=TOKENS, lease_s=30)
    receiver.offer(KEY, 0.0)
    receiver.grant(KEY, (7, 8), num_cached)
    return receiver


def test_a_transfer_is_whole_when_every_layer_is_there_and_the_counts_agree() -> None:
    receiver = make_receiver(num_cached=2)
    assert receiver.receive(KEY, 0, 2, 5) == (7, 8)
    assert receiver.receive(KEY, 1, 2, 4) == (7, 8)
    with pytest.raises(HandoffError, match="layer 1 has 4 of 5 tokens"):
        receiver.complete(KEY, 5, 2)
    receiver.receive(KEY, 1, 4, 5)
    with pytest.raises(HandoffError, match="complete after 4 ranges, but 3 came"):
        receiver.complete(KEY, 5, 4)
    assert receiver.complete(KEY, 5, 3)
    assert KEY not in receiver


def test_a_transfer_with_a_state_is_whole_when_the_state_is_there_too() -> None:
    receiver = ReceiveLedger(payloads=HYBRID, lease_s=30)
    receiver.offer(KEY, 0.0)
    receiver.grant(KEY, (7, 8), 5, (3,))
    with pytest.raises(HandoffError, match="layer 1 has 0 of 1 states"):
        receiver.complete(KEY, 5, 0)
    with pytest.raises(HandoffError, match=r"layer 1: states \[0, 2\) do not follow \[0, 0\)"):
        receiver.receive(KEY, 2, 0, 2)
    assert receiver.receive(KEY, 2, 0, 1) == (3,)
    with pytest.raises(HandoffError, match=r"layer 1: states \[1, 2\) do not follow \[0, 1\)"):
        receiver.receive(KEY, 2, 1, 2)
    assert receiver.complete(KEY, 5, 1)


def test_a_range_of_a_payload_that_was_not_agreed_on_is_a_fault() -> None:
    with pytest.raises(HandoffError, match="payload 2, but there are 2"):
        make_receiver().receive(KEY, 2, 0, 1)


def test_a_prompt_that_is_cached_whole_completes_without_a_range() -> None:
    assert make_receiver(num_cached=5).complete(KEY, 5, 0)


@pytest.mark.parametrize(("start", "end"), [(1, 3), (0, 0), (3, 2)])
def test_a_range_out_of_order_is_a_fault(start: int, end: int) -> None:
    with pytest.raises(HandoffError, match="do not follow"):
        make_receiver().receive(KEY, 0, start, end)


def test_a_range_twice_is_a_fault() -> None:
    receiver = make_receiver()
    receiver.receive(KEY, 0, 0, 3)
    with pytest.raises(HandoffError, match="do not follow"):
        receiver.receive(KEY, 0, 0, 3)


def test_a_range_without_a_ticket_is_a_fault_and_one_after_the_end_is_dropped() -> None:
    receiver = ReceiveLedger(payloads=TOKENS, lease_s=30)
    receiver.offer(KEY, 0.0)
    with pytest.raises(HandoffError, match="before a ticket"):
        receiver.receive(KEY, 0, 0, 1)
    receiver.end(KEY, State.ABORTED)
    assert receiver.receive(KEY, 0, 0, 1) is None
    assert not receiver.grant(KEY, (1,), 0)
    assert not receiver.complete(KEY, 1, 1)


def test_a_reservation_lives_as_long_as_it_is_renewed() -> None:
    receiver = make_receiver()
    receiver.renew([KEY, TransferKey("unknown", 0, 0)], 20.0)
    assert receiver.overdue(50.0) == []
    assert receiver.overdue(50.1) == [KEY]


def test_ends_are_final() -> None:
    for state in (State.COMPLETE, State.FAILED, State.ABORTED, State.EXPIRED):
        assert LEGAL_MOVES[state] == frozenset()
    ledger = ReceiveLedger(payloads=TOKENS, lease_s=1)
    ledger.offer(KEY, 0.0)
    with pytest.raises(AssertionError, match="OFFERED to COMPLETE"):
        ledger.end(KEY, State.COMPLETE)


def test_tombstones_last_for_one_lease() -> None:
    stones = Tombstones(lease_s=10)
    stones.bury(KEY, 0.0)
    assert stones.why_refused(KEY, 9.9) == "aborted before its offer came"
    assert stones.why_refused(KEY._replace(attempt=1), 9.9) is None
    assert stones.why_refused(KEY, 10.0) is None
    assert len(stones) == 0


def test_older_attempts_of_the_same_choice_are_refused() -> None:
    stones = Tombstones(lease_s=10)
    stones.saw(TransferKey("r", 3, 0), 0.0)
    stones.saw(TransferKey("r", 1, 0), 1.0)
    assert stones.why_refused(TransferKey("r", 2, 0), 2.0) == "attempt 2 is older than attempt 3"
    assert stones.why_refused(TransferKey("r", 3, 0), 2.0) is None
    assert stones.why_refused(TransferKey("r", 0, 1), 2.0) is None


class Handover(RuleBasedStateMachine):
    """One transfer between two ledgers, with the wire as two lists; what is delivered when is hypothesis' choice."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.sender = SendLedger(payloads=HYBRID, lease_s=10)
        self.receiver = ReceiveLedger(payloads=HYBRID, lease_s=10)
        self.total = 0
        self.tickets: list[int] = []
        self.wire: list[tuple[str, tuple[int, ...]]] = []
        self.computed = [0, 0]  # tokens, per layer
        self.held = [0, 0, 0]  # units, per payload
        self.is_completed = False
        self.is_whole = False

    @initialize(num_tokens=st.integers(1, 30))
    def offer(self, num_tokens: int) -> None:
        self.total = num_tokens
        self.sender.offer(KEY, num_tokens, 100.0)
        self.receiver.offer(KEY, 0.0)

    @precondition(lambda self: KEY in self.receiver and self.receiver.state(KEY) is State.OFFERED)
    @rule(num_cached=st.integers(0, 30))
    def grant(self, num_cached: int) -> None:
        num_cached = min(num_cached, self.total)
        assert self.receiver.grant(KEY, (0,), num_cached, (1,))
        self.held = [num_cached, num_cached, 0]
        self.tickets.append(num_cached)

    @precondition(lambda self: bool(self.tickets))
    @rule()
    def deliver_ticket(self) -> None:
        self.sender.ticket(KEY, self.tickets.pop())

    @precondition(lambda self: min(self.computed) < self.total)
    @rule(layer=st.integers(0, 1), num_tokens=st.integers(1, 12))
    def compute(self, layer: int, num_tokens: int) -> None:
        self.computed[layer] = min(self.computed[layer] + num_tokens, self.total)
        self.sender.computed(KEY, layer, self.computed[layer], (0,), (1,))

    @precondition(lambda self: not self.is_completed and min(self.computed) == self.total)
    @rule()
    def complete(self) -> None:
        self.is_completed = True
        self.sender.complete(KEY, self.total, [(0, 1)])

    @rule(room=st.integers(1, 60))
    def push(self, room: int) -> None:
        for span in self.sender.take(KEY, room):
            spec = HYBRID[span.index]
            assert span.end <= spec.num_final(self.computed[spec.layer], self.total)
            self.wire.append(("range", (span.index, span.start, span.end)))
        if (closing := self.sender.close(KEY, self.now_s)) is not None:
            self.wire.append(("complete", (closing.num_tokens, closing.num_ranges)))

    @precondition(lambda self: bool(self.wire))
    @rule()
    def deliver(self) -> None:
        kind, numbers = self.wire.pop(0)
        if kind == "range":
            index, start, end = numbers
            if (place := self.receiver.receive(KEY, index, start, end)) is not None:
                assert place == ((1,) if HYBRID[index].unit is Unit.STATE else (0,))
                assert start == self.held[index]
                self.held[index] = end
        elif self.receiver.complete(KEY, *numbers):
            self.is_whole = True
            assert self.sender.end(KEY, State.COMPLETE) or KEY not in self.sender

    @rule(side=st.sampled_from(("sender", "receiver")))
    def abort(self, side: str) -> None:
        ledger = self.sender if side == "sender" else self.receiver
        was_there = KEY in ledger
        assert ledger.end(KEY, State.ABORTED) is was_there
        assert not ledger.end(KEY, State.ABORTED)

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if KEY in self.sender:
            self.receiver.renew([KEY], self.now_s)
        for key in self.receiver.overdue(self.now_s):
            assert KEY not in self.sender
            self.receiver.end(key, State.EXPIRED)

    @invariant()
    def a_whole_transfer_holds_everything(self) -> None:
        if self.is_whole:
            assert self.held == [self.total, self.total, 1]
            assert KEY not in self.receiver


TestHandover = Handover.TestCase
TestHandover.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
