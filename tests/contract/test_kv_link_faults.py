"""What a KV link does when the other side dies, falls silent, or is not what it should be."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from baton.errors import ConfigError, UnavailableError
from baton.v1.kv_pb2 import FromReceiver, FromSender
from baton.v1.worker_pb2 import DecodeRoute
from tests.local_link import LocalWire
from tests.unit.kv_transfer.harness import MIXED, Pair, TorchStore, open_pair, tokens
from tests.unit.kv_transfer.peer import KEY, NUM_TOKENS, line_of, start
from workers.actor import WorkerActor
from workers.kv_transfer.link import Acked, Ended, Lost, Offered, Ticketed, TransferKey
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.kv_transfer.to_peer import ToPeer
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

torch.set_num_threads(1)
PROCESS_TRANSPORTS = ("grpc", "gloo", "shm")


def _moments(steps: Sequence[str], usual: Mapping[str, str]) -> list[Any]:
    """Every step over every transport; one of each transport is not slow (a peer takes seconds to import torch)."""
    return [
        pytest.param(transport, step, marks=() if usual[transport] == step else pytest.mark.slow)
        for transport in PROCESS_TRANSPORTS
        for step in steps
    ]


@pytest.mark.parametrize(
    ("transport", "step"),
    _moments(
        ["before", "offered", "granted", "streaming", "completed"],
        {"grpc": "granted", "gloo": "streaming", "shm": "completed"},
    ),
)
def test_a_receiver_killed_at_any_step_ends_its_transfers_alone(transport: str, step: str) -> None:
    with _receiver(transport, "d", "no" if step == "offered" else "yes") as (first, pair):
        if step == "before":
            _kill(first)
        pair.offer(KEY, NUM_TOKENS)
        if step == "offered":
            assert line_of(first) == "Offered"
        if step in ("granted", "streaming", "completed"):
            pair.wait(Ticketed, KEY)
        if step in ("streaming", "completed"):
            pair.compute(KEY, NUM_TOKENS // 2)
        if step == "completed":
            first.send_signal(signal.SIGSTOP)  # so that no ack is out before it dies
            pair.compute(KEY, NUM_TOKENS)
            pair.outbox.complete(KEY, NUM_TOKENS, [(0, 1)])
            pair.settle()
        began_s = time.monotonic()
        _kill(first)
        error = pair.wait(Ended, KEY).error
        assert isinstance(error, UnavailableError)
        assert error.retryable
        assert time.monotonic() - began_s < 10
        if step in ("before", "streaming"):
            _hand_over_to_the_next_life(pair, transport)
        pair.check_integrity()


@pytest.mark.parametrize(
    ("transport", "step"),
    _moments(["offered", "granted", "streaming"], {"grpc": "offered", "gloo": "granted", "shm": "streaming"}),
)
def test_a_sender_killed_at_any_step_loses_its_transfers_alone(transport: str, step: str) -> None:
    with open_pair(transport) as pair:
        assert pair.server is not None
        peer = start("send", transport, pair.server.address, step)
        try:
            pair.wait(Offered, KEY)
            if step != "offered":
                pair.grant(KEY, NUM_TOKENS)
            assert line_of(peer) == step
        finally:
            _kill(peer)
        assert isinstance(pair.wait(Lost, KEY).error, UnavailableError)
        other = TransferKey("other", 0, 0)
        pair.offer(other, 9)
        pair.wait(Offered, other)
        pair.grant(other, 9)
        pair.compute(other, 9)
        pair.outbox.complete(other, 9, [(0, 1)])
        pair.check_arrived(other, 9)
        pair.wait(Acked, other)
        pair.check_integrity()


def _hand_over_to_the_next_life(pair: Pair, transport: str) -> None:
    with _another(pair, transport, "e") as second:
        key = KEY._replace(attempt=1)
        pair.offer(key, NUM_TOKENS)
        pair.compute(key, NUM_TOKENS)
        pair.outbox.complete(key, NUM_TOKENS, [(0, 1)])
        pair.wait(Acked, key)
        assert [line_of(second), line_of(second)] == ["Offered", "Arrived"]


@contextlib.contextmanager
def _receiver(transport: str, incarnation: str, grants: str) -> Iterator[tuple["subprocess.Popen[str]", Pair]]:
    """An outbox here and an inbox in a process of its own."""
    peer = start("receive", transport, incarnation, grants)
    try:
        with open_pair(transport) as pair:
            pair.route = DecodeRoute(worker_id="decode-0", incarnation=incarnation, address=line_of(peer))
            yield peer, pair
    finally:
        _kill(peer)


@contextlib.contextmanager
def _another(pair: Pair, transport: str, incarnation: str) -> "Iterator[subprocess.Popen[str]]":
    peer = start("receive", transport, incarnation, "yes")
    try:
        pair.route = DecodeRoute(worker_id="decode-0", incarnation=incarnation, address=line_of(peer))
        yield peer
    finally:
        _kill(peer)


def _kill(peer: "subprocess.Popen[str]") -> None:
    peer.kill()
    peer.wait()


class DeafWire(LocalWire):
    """Loses messages of some kinds, either way."""

    lost: tuple[str, ...] = ()

    def send(self, message: FromSender | bytes, timeout_s: float) -> None:
        assert isinstance(message, FromSender)
        if message.WhichOneof("message") not in self.lost:
            super().send(message, timeout_s)

    def _reply(self, message: FromReceiver | None) -> None:
        if message is None or message.WhichOneof("message") not in self.lost:
            super()._reply(message)


@contextlib.contextmanager
def _deaf_pair(*lost: str, lease_s: float = 0.3) -> Iterator[Pair]:
    with open_pair("inproc", kv=KVSpec(lease_s=lease_s)) as pair:
        assert isinstance(pair.outbox, ThreadedOutbox)
        inbox = pair.inbox

        def dial(_: DecodeRoute, link: ToPeer) -> LocalWire:
            wire = DeafWire(inbox, link)  # type: ignore[arg-type]
            wire.lost = lost
            return wire

        pair.outbox.dial = dial
        yield pair
        pair.check_integrity()


def test_an_ack_that_never_comes_ends_with_the_lease() -> None:
    with _deaf_pair("ack") as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        pair.check_arrived(KEY, 9)
        error = pair.wait(Ended, KEY).error
        assert isinstance(error, UnavailableError)
        assert "waited for an ack for 0.3 s of decode-0 in vain" in error.message


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_reservation_that_is_not_renewed_expires(is_granted: bool) -> None:
    with _deaf_pair("renew") as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        if is_granted:
            pair.grant(KEY, 9)
        error = pair.wait(Lost, KEY).error
        assert isinstance(error, UnavailableError)
        assert "not renewed by local-sender within 0.3 s" in error.message
        assert isinstance(pair.wait(Ended, KEY).error, UnavailableError)


def test_a_renewed_reservation_outlives_its_lease() -> None:
    with open_pair("inproc", kv=KVSpec(lease_s=0.3)) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.settle(1.0)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        pair.check_arrived(KEY, 9)
        pair.wait(Acked, KEY)
        pair.check_integrity()


def test_ranges_that_get_lost_are_missed_at_complete() -> None:
    with _deaf_pair("ranges") as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        assert "complete with 9 tokens, but layer 0 has 0 of 9 tokens" in str(pair.wait(Lost, KEY).error)
        assert "complete with 9 tokens" in str(pair.wait(Ended, KEY).error)


def test_a_read_that_raises_ends_the_link_by_name_and_the_next_offer_makes_a_new_one() -> None:
    class Broken(TorchStore):
        is_broken = True

        def read(self, *args: Any, **options: Any) -> Any:
            if self.is_broken:
                raise IndexError("no such block")
            return super().read(*args, **options)

    store = Broken()
    with open_pair("grpc", sender=store) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        assert "IndexError: no such block" in str(pair.wait(Ended, KEY).error)
        pair.wait(Lost, KEY)
        store.is_broken = False
        again = KEY._replace(attempt=1)
        pair.offer(again, 9)
        pair.wait(Offered, again)
        pair.grant(again, 9)
        pair.compute(again, 9)
        pair.outbox.complete(again, 9, [(0, 1)])
        pair.check_arrived(again, 9)
        pair.wait(Acked, again)
        pair.check_integrity()


def test_an_offer_whose_time_is_over_before_it_can_be_sent_is_not_sent() -> None:
    class Slow(TorchStore):
        is_read = threading.Event()

        def read(self, *args: Any, **options: Any) -> Any:
            self.is_read.set()
            time.sleep(0.05)
            return super().read(*args, **options)

    store, late = Slow(), TransferKey("late", 0, 0)
    with open_pair("inproc", sender=store, kv=KVSpec(lease_s=4.0)) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        assert store.is_read.wait(5.0)
        pair.offer(late, 9, timeout_s=0.01)
        assert "late waited for blocks of decode-0 in vain" in str(pair.wait(Ended, late).error)
        pair.check_arrived(KEY, 9)
        pair.wait(Acked, KEY)
        pair.settle()
        assert late not in [event.key for event in pair.events if isinstance(event, Offered)]
        pair.check_integrity()


MISMATCHES: dict[str, tuple[dict[str, object], str]] = {
    "fingerprint": ({"fingerprints": ("a", "b")}, "fingerprint: 'a' on the sender, 'b' on the receiver"),
    "dtype": ({"receiver_dtype": "bfloat16"}, "dtype: 'float32' on the sender, 'bfloat16' on the receiver"),
    "block_size": ({"receiver": TorchStore(block_size=8)}, "block_size: 4 on the sender, 8 on the receiver"),
    "layers": ({"receiver": TorchStore(payloads=MIXED[:2])}, "payloads: 8 on the sender, 2 on the receiver"),
    "layout": (
        {"receiver": TorchStore(payloads=(*MIXED[:4], tokens(2, 48), *MIXED[5:]))},
        "payloads[4].layout: 'test/width=40' on the sender, 'test/width=48' on the receiver",
    ),
    "unit": (
        {"receiver": TorchStore(payloads=(*MIXED[:2], tokens(1, 100), *MIXED[3:]))},
        "payloads[2].unit: 'state' on the sender, 'token' on the receiver",
    ),
    "layer": (
        {"receiver": TorchStore(payloads=(MIXED[0], tokens(4, 20), *MIXED[2:]))},
        "payloads[1].layer: 0 on the sender, 4 on the receiver",
    ),
    "transport": ({"receiver_kv": KVSpec(transport="gloo")}, "kv.transport: 'grpc' proposed, 'gloo' wanted"),
}


@pytest.mark.parametrize("field", MISMATCHES)
def test_workers_that_differ_are_refused_by_name(field: str) -> None:
    options, message = MISMATCHES[field]
    with open_pair("grpc", **options) as pair:  # type: ignore[arg-type]
        pair.offer(KEY, 9)
        error = pair.wait(Ended, KEY).error
        assert isinstance(error, ConfigError)
        assert "decode-0 refused the link" in error.message
        assert message in error.message
        pair.check_integrity()


@pytest.mark.parametrize("name", ["nccl", "cuda_ipc"])
def test_a_gpu_transport_without_a_gpu_is_refused_by_name(name: str) -> None:
    with open_pair(name) as pair:
        pair.offer(KEY, 9)
        error = pair.wait(Ended, KEY).error
        assert isinstance(error, ConfigError)
        assert f"kv.transport: {name!r} needs device cuda, this worker's is 'cpu'" in error.message


@pytest.mark.parametrize("name", ["nccl", "cuda_ipc"])
async def test_a_worker_that_cannot_move_kv_as_told_does_not_start(name: str) -> None:
    spec = WorkerSpec(
        worker_id="prefill-0",
        role=Role.PREFILL,
        model="nowhere",
        served_name="demo",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(),
        kv=KVSpec(transport=name),
        secret="s3cret",
    )
    with pytest.raises(ConfigError, match=f"kv.transport: '{name}' needs device cuda, this worker's is 'cpu'"):
        await WorkerActor(spec, "1").start()


@pytest.mark.parametrize(("receiver_wants", "taken"), [("auto", "shm"), ("grpc", "grpc"), ("gloo", "gloo")])
def test_an_automatic_sender_takes_what_the_receiver_wants(receiver_wants: str, taken: str) -> None:
    with open_pair("auto", receiver_kv=KVSpec(transport=receiver_wants)) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        pair.check_arrived(KEY, 9)
        pair.wait(Acked, KEY)
        assert isinstance(pair.outbox, ThreadedOutbox)
        (peer,) = pair.outbox._peers.values()
        assert peer._payloads.name == taken


def test_a_route_to_a_past_life_of_the_worker_is_refused() -> None:
    with open_pair("grpc") as pair:
        pair.route = DecodeRoute(worker_id="decode-0", incarnation="older", address=pair.route.address)
        pair.offer(KEY, 9)
        error = pair.wait(Ended, KEY).error
        assert isinstance(error, UnavailableError)
        assert "is decode-0/d now" in error.message
        pair.check_integrity()


@pytest.mark.parametrize("transport", ["inproc", *PROCESS_TRANSPORTS])
def test_an_abort_during_a_slow_write_frees_blocks_only_after_it(transport: str) -> None:
    with open_pair(transport) as pair:
        pair.receiver.write_delay_s = 0.3
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.compute(KEY, 9)
        pair.outbox.complete(KEY, 9, [(0, 1)])
        time.sleep(0.1)
        pair.inbox.abort(KEY)
        pair.wait(Lost, KEY)
        before = [rows.clone() for rows in pair.receiver.rows]
        pair.settle(0.5)
        assert all(torch.equal(a, b) for a, b in zip(before, pair.receiver.rows, strict=True))
        pair.until(lambda: not pair.sent)


def test_memory_that_cannot_be_mapped_is_replaced_by_gloo_where_transports_are_automatic() -> None:
    for name in ("auto", "shm"):
        sender = TorchStore()
        with open_pair(name, sender=sender, kv=KVSpec(transport=name)) as pair:
            sender.memory = Unmappable()  # type: ignore[assignment]
            pair.offer(KEY, 9)
            if name == "shm":
                error = pair.wait(Ended, KEY).error
                assert isinstance(error, ConfigError)
                assert "cannot map the sender's memory" in error.message
            else:
                pair.wait(Offered, KEY)
                pair.grant(KEY, 9)
                pair.compute(KEY, 9)
                pair.outbox.complete(KEY, 9, [(0, 1)])
                pair.check_arrived(KEY, 9)
                pair.wait(Acked, KEY)
            pair.check_integrity()


class Unmappable:
    """As of a process that cannot be seen from here."""

    handle = f"{1 << 30}:0:0"
