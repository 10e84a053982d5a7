"""A receiver in shared memory can tell blocks that its sender has given to others."""

from collections.abc import Iterator

import pytest
import torch

from baton.v1.kv_pb2 import Handshake
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.shm_link import NUM_SEALS, ShmIn, ShmOut
from workers.model import shared_memory
from workers.model.cpu import kv_copy
from workers.model.kv_store import LayerShape, TorchKVStore

pytestmark = pytest.mark.skipif(
    not (shared_memory.is_available() and kv_copy.available()), reason="shm needs Linux and a C compiler"
)


def store() -> TorchKVStore:
    shapes = [LayerShape(num_kv_heads=1, head_dim=4)]
    return TorchKVStore(shapes, num_blocks=2, block_size=4, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def ends() -> Iterator[tuple[ShmOut, ShmIn]]:
    sent, received = store(), store()  # a store's memory ends with it
    sender = ShmOut(sent)
    yield sender, ShmIn(received, Handshake(store_address=sender.store_address))
    assert sent.num_blocks == received.num_blocks


def key(index: int) -> TransferKey:
    return TransferKey(f"r{index}", 0, 0)


def test_a_seal_holds_until_the_sender_breaks_it(ends: tuple[ShmOut, ShmIn]) -> None:
    sender, receiver = ends
    seals = [sender.seal(key(index)) for index in range(3)]
    sender.unseal(key(1))
    sender.unseal(key(1))
    assert [receiver.is_sealed(seal) for seal in seals] == [True, False, True]
    sender.unseal(None)
    assert not any(receiver.is_sealed(seal) for seal in seals)


def test_a_seal_whose_place_is_taken_counts_as_broken(ends: tuple[ShmOut, ShmIn]) -> None:
    sender, receiver = ends
    first = sender.seal(key(0))
    last = [sender.seal(key(index)) for index in range(1, NUM_SEALS + 1)][-1]
    assert not receiver.is_sealed(first)
    sender.unseal(key(0))
    assert receiver.is_sealed(last)
