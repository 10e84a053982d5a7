"""Each link's thread works within its scope (on a GPU, a stream of its own) for its whole life."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from tests.unit.kv_transfer.harness import TorchStore
from workers.kv_transfer.link import Acked, Offered, TransferKey
from workers.kv_transfer.local_link import LocalWire, _identify
from workers.kv_transfer.receiver import Receiver
from workers.kv_transfer.sender import Sender
from workers.kv_transfer.transport import LocalPipe, LocalReceiver, LocalSender
from workers.spec import KVSpec

KEY = TransferKey("r", 0, 0)
NUM_TOKENS = 9


class ScopedStore(TorchStore):
    """Notes whether reads and writes come from a thread that is within a scope."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()
        self.entered: list[str] = []
        self.left: list[str] = []
        self.outside: list[str] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        self.local.is_within = True
        self.entered.append(threading.current_thread().name)
        try:
            yield
        finally:
            self.left.append(threading.current_thread().name)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        self._note("read")
        return super().read(*args, **kwargs)

    def write(self, *args: Any, **kwargs: Any) -> None:
        self._note("write")
        super().write(*args, **kwargs)

    def _note(self, what: str) -> None:
        if not getattr(self.local, "is_within", False):
            self.outside.append(what)


def wait_for(found: Any) -> Any:
    ends_s = time.monotonic() + 10
    while not (result := found()):
        assert time.monotonic() < ends_s
        time.sleep(0.002)
    return result


def test_blocks_are_read_and_written_within_the_scope_of_the_links_thread() -> None:
    sent, received, pipe = ScopedStore(), ScopedStore(), LocalPipe()
    inbox = Receiver(
        store=received,
        identity=_identify("b", received),
        kv=KVSpec(),
        make_transport=lambda _: LocalReceiver(pipe),
        notify=lambda: None,
        scope=received.scope,
    )
    outbox = Sender(
        store=sent,
        identity=_identify("a", sent),
        kv=KVSpec(),
        dial=lambda _, link: LocalWire(inbox, link),
        make_transport=lambda _name, _route: LocalSender(pipe, sent),
        notify=lambda: None,
        scope=sent.scope,
    )
    submit = Submit(request_id="r", prompt_token_ids=range(NUM_TOKENS), choices=[ChoiceStart()], timeout_s=60)
    outbox.offer(KEY, submit, "i", DecodeRoute(worker_id="decode-0"))
    wait_for(lambda: [event for event in inbox.poll() if isinstance(event, Offered)])
    inbox.grant(KEY, received.allocate(NUM_TOKENS), 0)
    blocks = sent.allocate(NUM_TOKENS)
    for layer in range(len(sent.widths)):
        outbox.computed(KEY, layer, NUM_TOKENS, blocks)
    outbox.complete(KEY, NUM_TOKENS, [(0, 1)])
    wait_for(lambda: [event for event in outbox.poll() if isinstance(event, Acked)])
    outbox.close()
    inbox.close()
    assert sent.outside == []
    assert received.outside == []
    assert sent.entered == sent.left == ["kv-to-decode-0"]
    assert received.entered == received.left == ["kv-from-a"]
