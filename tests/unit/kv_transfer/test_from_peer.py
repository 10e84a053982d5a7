"""What a receiver makes of one message of several ranges."""

import time
from typing import Any

from baton.v1.kv_pb2 import FromReceiver, FromSender, Offer, Range, Ranges
from baton.v1.worker_pb2 import Submit
from tests.local_link import LocalIn, LocalPipe, identify
from tests.unit.kv_transfer.harness import TorchStore, tokens
from tests.unit.kv_transfer.test_device_order import wait_for
from workers.kv_transfer.handshake import propose
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.link import Lost, Offered, TransferKey
from workers.kv_transfer.wire import wire_key
from workers.spec import KVSpec

GOOD, BAD = TransferKey("good", 0, 0), TransferKey("bad", 0, 0)


class SlowStore(TorchStore):
    """Notes what was written when the inbox has told of a loss."""

    def __init__(self) -> None:
        super().__init__(payloads=[tokens(0, 8), tokens(1, 8)])
        self.written: list[int] = []

    def write(self, index: int, *args: Any, **options: Any) -> None:
        time.sleep(0.03)
        super().write(index, *args, **options)
        self.written.append(index)


def test_a_transfer_with_a_fault_ends_after_what_the_message_brings_is_written() -> None:
    store, pipe = SlowStore(), LocalPipe()
    told: list[FromReceiver | None] = []
    inbox = ThreadedInbox(
        store=store,
        identity=identify("b", store),
        kv=KVSpec(),
        make_payloads=lambda _: LocalIn(pipe),
        notify=lambda: None,
    )
    handshake = propose(identify("a", store), transport="inproc", store_address="", store_prefix="")
    _, peer = inbox.accept(handshake, told.append)
    assert peer is not None
    for key in (GOOD, BAD):
        submit = Submit(request_id=key.request_id, prompt_token_ids=range(4))
        peer.feed(FromSender(offer=Offer(key=wire_key(key), ingress_id="i", submit=submit)))
        wait_for(lambda: [event for event in inbox.poll() if isinstance(event, Offered)])
        inbox.grant(key, store.allocate(4).blocks, 0)
    places = [(GOOD, 0, 0, 4), (BAD, 0, 0, 4), (BAD, 1, 2, 4), (GOOD, 1, 0, 4)]  # BAD's second begins too late
    pipe.payloads.extend(store.empty_payload(8 * (end - start)).fill_(7) for _, _, start, end in places)
    ranges = [Range(key=wire_key(key), index=index, start=start, end=end) for key, index, start, end in places]
    peer.feed(FromSender(ranges=Ranges(ranges=ranges)))
    (lost,) = wait_for(lambda: [event for event in inbox.poll() if isinstance(event, Lost)])
    assert store.written == [0, 0, 1]
    assert lost.key == BAD
    assert "does not follow 0 tokens" in str(lost.error)
    assert [message.failed.key.request_id for message in told if message and message.HasField("failed")] == ["bad"]
    assert inbox.bytes_received == 3 * 4 * 8
    assert inbox.num_active == 1
    inbox.close()
