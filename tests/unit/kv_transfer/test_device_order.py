"""Links beside a device that computes meanwhile: threads work within their scope, and wait for fences of layers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from tests.local_link import LocalIn, LocalOut, LocalPipe, LocalWire, identify
from tests.unit.kv_transfer.harness import TorchStore, tokens
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.link import Acked, Offered, Ticketed, TransferKey
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.spec import KVSpec

KEY = TransferKey("r", 0, 0)
NUM_TOKENS = 9


class ScopedStore(TorchStore):
    """Notes whether reads and writes come from a thread that is within a scope."""

    def __init__(self) -> None:
        super().__init__(payloads=[tokens(layer, 8 + layer) for layer in range(3)])
        self.local = threading.local()
        self.entered: list[str] = []
        self.left: list[str] = []
        self.outside: list[str] = []
        self.layers_read: list[int] = []
        self.layers_written: list[int] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        self.local.is_within = True
        self.entered.append(threading.current_thread().name)
        try:
            yield
        finally:
            self.left.append(threading.current_thread().name)

    def read(self, layer: int, *args: Any, **kwargs: Any) -> Any:
        self._note("read")
        self.layers_read.append(layer)
        return super().read(layer, *args, **kwargs)

    def write(self, layer: int, *args: Any, **kwargs: Any) -> None:
        self._note("write")
        super().write(layer, *args, **kwargs)
        self.layers_written.append(layer)

    def _note(self, what: str) -> None:
        if not getattr(self.local, "is_within", False):
            self.outside.append(what)


class EagerOut(LocalOut):
    """Waits for no more when it has little."""

    min_push_bytes = 1


def wait_for(found: Any) -> Any:
    ends_s = time.monotonic() + 10
    while not (result := found()):
        assert time.monotonic() < ends_s
        time.sleep(0.002)
    return result


class Fence:
    """A point of a device that passes it when it is told to."""

    def __init__(self) -> None:
        self._passed = threading.Event()
        self.passed_s = 0.0

    def pass_it(self) -> None:
        self.passed_s = time.monotonic()
        self._passed.set()

    def is_past(self) -> bool:
        return self._passed.is_set()

    def wait(self) -> None:
        assert self._passed.wait(10)

    def seconds_to(self, later: "Fence") -> float:
        return later.passed_s - self.passed_s


class Linked:
    """One transfer of NUM_TOKENS, granted; `fences[layer]` is passed by the test."""

    def __init__(self) -> None:
        self.sent, self.received, pipe = ScopedStore(), ScopedStore(), LocalPipe()
        self.fences: list[Fence] = []
        self.inbox = ThreadedInbox(
            store=self.received,
            identity=identify("b", self.received),
            kv=KVSpec(),
            make_payloads=lambda _: LocalIn(pipe),
            notify=lambda: None,
            scope=self.received.scope,
        )
        self.outbox = ThreadedOutbox(
            store=self.sent,
            identity=identify("a", self.sent),
            kv=KVSpec(),
            dial=lambda _, link: LocalWire(self.inbox, link),
            make_payloads=lambda _name, _route: EagerOut(pipe, self.sent),
            notify=lambda: None,
            fence=self._fence,
            scope=self.sent.scope,
        )
        submit = Submit(request_id="r", prompt_token_ids=range(NUM_TOKENS), choices=[ChoiceStart()], timeout_s=60)
        self.outbox.offer(KEY, submit, "i", DecodeRoute(worker_id="decode-0"), NUM_TOKENS)
        wait_for(lambda: [event for event in self.inbox.poll() if isinstance(event, Offered)])
        self.inbox.grant(KEY, self.received.allocate(NUM_TOKENS).blocks, 0)
        wait_for(lambda: [event for event in self.outbox.poll() if isinstance(event, Ticketed)])

    def compute(self) -> None:
        """Every layer is given to the device, which has done none yet; and what follows the last."""
        blocks = self.sent.allocate(NUM_TOKENS).blocks
        for layer in range(len(self.sent.payloads)):
            self.outbox.computed(KEY, layer, NUM_TOKENS, blocks)
        self.outbox.complete(KEY, NUM_TOKENS, [(0, 1)])

    def finish(self) -> None:
        wait_for(lambda: [event for event in self.outbox.poll() if isinstance(event, Acked)])
        self.outbox.close()
        self.inbox.close()

    def _fence(self) -> Fence:
        """The engine's; of what the link's thread gives the device, it is past at once."""
        fence = Fence()
        if threading.current_thread() is threading.main_thread():
            self.fences.append(fence)
        else:
            fence.pass_it()
        return fence


def test_blocks_are_read_and_written_within_the_scope_of_the_links_thread() -> None:
    linked = Linked()
    linked.compute()
    for fence in linked.fences:
        fence.pass_it()
    linked.finish()
    assert linked.sent.outside == linked.received.outside == []
    assert linked.sent.entered == linked.sent.left == ["kv-to-decode-0"]
    assert linked.received.entered == linked.received.left == ["kv-from-a"]


def test_a_layer_is_read_when_the_device_is_past_it_and_sent_while_the_next_is_computed() -> None:
    linked = Linked()
    linked.compute()
    for layer, fence in enumerate(linked.fences):
        time.sleep(0.05)
        assert linked.sent.layers_read == linked.received.layers_written == list(range(layer))
        fence.pass_it()
        if layer + 1 < len(linked.fences):
            wait_for(lambda expected=layer + 1: len(linked.received.layers_written) == expected)
    linked.finish()
    assert linked.received.layers_written == [0, 1, 2]


def test_what_layers_wait_and_the_receiver_is_idle_for_is_measured() -> None:
    linked = Linked()
    linked.compute()
    for layer, fence in enumerate(linked.fences):
        fence.pass_it()
        wait_for(lambda expected=layer + 1: len(linked.received.layers_written) == expected)
        time.sleep(0.05)
    linked.finish()
    (sent,), (received,) = ([one["inproc"] for one in side.measures] for side in (linked.outbox, linked.inbox))
    assert sent.wait_s.count == 3
    assert sent.wait_s.sum < 0.05, "each layer was pushed when the device was past it"
    assert received.idle_s.count == 2
    assert received.idle_s.sum > 0.09, "between the layers there was nothing to write"


def test_a_layer_that_nobody_has_room_for_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EagerOut, "min_push_bytes", 1 << 20)  # more than there is: all goes with the last layer
    linked = Linked()
    linked.compute()
    for fence in linked.fences:
        fence.pass_it()
        time.sleep(0.05)
    linked.finish()
    (sent,), (received,) = ([one["inproc"] for one in side.measures] for side in (linked.outbox, linked.inbox))
    assert sent.wait_s.count == 3
    assert sent.wait_s.sum > 0.14, "the first waited for two others, the second for one"
    assert received.idle_s.count == 0
