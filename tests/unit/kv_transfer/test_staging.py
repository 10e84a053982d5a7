"""Copies between a device and the host through a few buffers: none is read or filled again before its copy is past."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baton.v1.kv_pb2 import FromSender
from tests.unit.kv_transfer.harness import TorchStore, content
from workers.kv_transfer.fences import Gaps, Moment
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.staging import Ring, Staging, lay
from workers.kv_transfer.transport import GrpcIn, GrpcOut, nbytes_of

KEY = TransferKey("r", 0, 0)


class Device:
    """Does copies in order, and none before somebody waits for it or for one after it."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], object]] = []
        self.num_done = 0
        self.most_under_way = 0
        self.num_waits = 0

    def begin(self, target: torch.Tensor, source: torch.Tensor) -> "Copy":
        self.queue.append(lambda: target.copy_(source))
        self.most_under_way = max(self.most_under_way, len(self.queue) - self.num_done)
        return Copy(self, len(self.queue))

    def finish(self, number: int | None = None) -> None:
        for copy in self.queue[self.num_done : number]:
            copy()
        self.num_done = max(self.num_done, len(self.queue) if number is None else number)


class Copy(Moment):
    def __init__(self, device: Device, number: int) -> None:
        super().__init__()
        self._device, self._number = device, number

    def is_past(self) -> bool:
        return self._device.num_done >= self._number

    def wait(self) -> None:
        self._device.num_waits += not self.is_past()
        self._device.finish(self._number)


def host(nbytes: int) -> torch.Tensor:
    return torch.full((nbytes,), 255, dtype=torch.uint8)


def make_ring(device: Device, *, num_buffers: int = 3, buffer_bytes: int = 8) -> Ring:
    return Ring(host, device.begin, num_buffers=num_buffers, buffer_bytes=buffer_bytes)


def of(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)


@given(
    messages=st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=1, max_size=4),
    num_buffers=st.integers(1, 4),
    buffer_bytes=st.integers(1, 12),
)
def test_messages_of_any_pieces_come_out_of_a_device_and_into_it(
    messages: list[list[int]], num_buffers: int, buffer_bytes: int
) -> None:
    out, into = Device(), Device()
    rings = [make_ring(device, num_buffers=num_buffers, buffer_bytes=buffer_bytes) for device in (out, into)]
    there = []
    for number, sizes in enumerate(messages):
        whole = of(sum(sizes), number)
        places = [np.zeros(size, dtype=np.uint8) for size in sizes]
        lay(rings[0].to_host(torch.from_numpy(whole)), places)
        assert np.concatenate([whole[:0], *places]).tolist() == whole.tolist()
        target = torch.zeros(sum(sizes), dtype=torch.uint8)
        lay(iter(places), rings[1].to_device(target))
        for place in places:
            place[:] = 0  # the message is dropped while the device still copies
        there.append((whole, target))
    into.finish()
    assert all(target.numpy().tolist() == whole.tolist() for whole, target in there)
    assert out.most_under_way <= num_buffers
    assert into.most_under_way <= num_buffers


def test_the_device_copies_ahead_while_the_host_reads_and_nobody_waits_for_what_goes_to_it() -> None:
    device = Device()
    ring = make_ring(device)
    taken = ring.to_host(torch.arange(40, dtype=torch.uint8))
    assert next(taken).tolist() == list(range(8))
    assert len(device.queue) == 3
    assert next(taken).tolist() == list(range(8, 16))
    assert len(device.queue) == 4, "the buffer that was read is copied into again"
    device = Device()
    lay([of(24, 0)], make_ring(device).to_device(torch.zeros(24, dtype=torch.uint8)))
    assert (len(device.queue), device.num_done, device.num_waits) == (3, 0, 0)


def test_what_is_laid_over_targets_fills_them() -> None:
    with pytest.raises(AssertionError, match="2 bytes are left over"):
        lay([of(3, 0)], [np.zeros(2, dtype=np.uint8), np.zeros(3, dtype=np.uint8)])


def test_a_message_of_grpc_goes_from_device_to_device() -> None:
    out, into = Device(), Device()
    sender, receiver = TorchStore(), TorchStore()
    for _ in range(3):
        held, other = sender.allocate(11), receiver.allocate(11)
        rows = content(sender, KEY, 11)
        for index, each in enumerate(rows):
            sender.set(held, index, 0, each)
        spans = [
            Span(KEY, index, 0, len(each), held.blocks if len(each) > 1 else held.states)
            for index, each in enumerate(rows)
        ]
        plain = GrpcOut(sender).pack(spans)
        message = GrpcOut(sender, Staging(sender, make_ring(out, buffer_bytes=50)).read_all).pack(spans)
        assert message == plain
        ranges = FromSender.FromString(message).ranges
        with GrpcIn(Staging(receiver, make_ring(into, buffer_bytes=70)).on_device).unpack(ranges) as payloads:
            into.finish()  # as a stream orders it before what is written from there
            targets = [
                Span(KEY, span.index, span.start, span.end, other.blocks if span.end > 1 else other.states)
                for span in spans
            ]
            assert [len(payload) for payload in payloads] == [nbytes_of(receiver, span) for span in targets]
            receiver.write_all(targets, payloads)
        for index, each in enumerate(rows):
            assert receiver.of(other, index, 0, len(each)).equal(each)


def test_gaps_are_told_once_the_device_is_past_both_ends() -> None:
    device, gaps = Device(), Gaps()
    begin, end = (device.begin(host(1), host(1)) for _ in range(2))
    begin.at_s, end.at_s = 1.0, 3.5
    gaps.add(begin, end)
    gaps.add(end, Moment())
    assert gaps.settled() == []
    device.finish(1)
    assert gaps.settled() == []
    device.finish()
    found = gaps.settled()
    assert found[0] == 2.5
    assert len(found) == 2
    assert gaps.settled() == []
