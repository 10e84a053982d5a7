"""A transfer between both books, in every order of events that can be."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.v1.worker_pb2 import Submit
from tests.unit.kv_transfer.books import HYBRID, KEY, PEER, Peer
from workers.kv_transfer.handoff import State
from workers.kv_transfer.incoming import Incoming
from workers.kv_transfer.link import Acked, Arrived, Ended, InboxEvent, Lost, Offered, OutboxEvent
from workers.kv_transfer.outgoing import Outgoing
from workers.model.contract import Unit


class Handover(RuleBasedStateMachine):
    """One transfer between two books, with the wire as two lists; what is delivered when is hypothesis' choice."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.sender: Outgoing[Peer] = Outgoing(payloads=HYBRID, lease_s=10)
        self.receiver: Incoming[Peer] = Incoming(payloads=HYBRID, lease_s=10, max_pending=1)
        self.total = 0
        self.tickets: list[int] = []
        self.wire: list[tuple[str, tuple[int, ...]]] = []
        self.computed = [0, 0]  # tokens, per layer
        self.held = [0, 0, 0]  # units, per payload
        self.is_granted = self.is_ticketed = self.is_closed = False
        self.is_completed = False
        self.is_whole = False
        self.sent: list[OutboxEvent] = []
        self.received: list[InboxEvent] = []

    @initialize(num_tokens=st.integers(1, 30))
    def offer(self, num_tokens: int) -> None:
        self.total = num_tokens
        self.sender.offer(KEY, PEER, num_tokens=num_tokens, timeout_s=100.0, now_s=0.0)
        self.receiver.offer(KEY, PEER, Submit(), "i", 0.0)

    @precondition(lambda self: not self.is_granted and self.receiver.is_live(KEY))
    @rule(num_cached=st.integers(0, 30))
    def grant(self, num_cached: int) -> None:
        num_cached = min(num_cached, self.total)
        assert self.receiver.grant(KEY, (0,), num_cached, (1,)) == PEER
        self.is_granted = True
        self.held = [num_cached, num_cached, 0]
        self.tickets.append(num_cached)

    @precondition(lambda self: bool(self.tickets))
    @rule()
    def deliver_ticket(self) -> None:
        self.is_ticketed = self.sender.ticket(KEY, self.tickets.pop())

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
            self.is_closed = True
            self.wire.append(("complete", (closing.num_tokens, closing.num_ranges)))

    @precondition(lambda self: self.is_completed and self.is_ticketed and KEY in self.sender)
    @rule()
    def push_all(self) -> None:
        for _ in range(40):  # units, at most
            self.push(60)
        assert self.is_closed

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
        elif self.receiver.complete(KEY, numbers[0], numbers[1], ()):
            self.is_whole = True
            assert self.sender.end(KEY, State.COMPLETE) or KEY not in self.sender

    @rule(side=st.sampled_from(("sender", "receiver")))
    def abort(self, side: str) -> None:
        if side == "sender" and self.sender.abort(KEY):
            assert self.sender.end(KEY, State.ABORTED)
        elif side == "receiver" and self.receiver.abort(KEY, self.now_s) is not None:
            assert not self.receiver.is_live(KEY)

    @precondition(lambda self: len(self.receiver) and not self.receiver.is_live(KEY))
    @rule()
    def no_write_is_in_flight(self) -> None:
        assert self.receiver.lost(KEY)

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if KEY in self.sender:
            self.receiver.renew([KEY], self.now_s)
        if (error := self.receiver.overdue(KEY, self.now_s)) is not None:
            assert KEY not in self.sender
            self.receiver.end(KEY, State.EXPIRED, error)

    @rule()
    def poll(self) -> None:
        self.sent += self.sender.poll()
        self.received += self.receiver.poll()

    def teardown(self) -> None:
        """Each side's end is told once, and only what was offered to the engine is told as lost or arrived."""
        self.poll()
        ends = [event for event in self.sent if isinstance(event, Acked | Ended)]
        assert len(ends) == (self.total > 0 and KEY not in self.sender)
        kinds = [type(event) for event in self.received]
        assert kinds in ([], [Offered], [Offered, Lost], [Offered, Arrived])
        assert (Arrived in kinds) <= self.is_whole

    @invariant()
    def a_whole_transfer_holds_everything(self) -> None:
        if self.is_whole:
            assert self.held == [self.total, self.total, 1]
            assert len(self.receiver) == 0


TestHandover = Handover.TestCase
TestHandover.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
