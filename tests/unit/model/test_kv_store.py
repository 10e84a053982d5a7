"""What is read from blocks and written to them, with the C kernel and without."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from workers.model import shared_memory
from workers.model.cpu import kv_copy
from workers.model.cpu.kv_copy import ForeignRange
from workers.model.kv_store import LayerShape, TorchKVStore

torch.set_num_threads(1)
SHAPES = (LayerShape(num_kv_heads=2, head_dim=3), LayerShape(num_kv_heads=1, head_dim=8))
BLOCKS = [7, 2, 3, 4, 0]
RANGES = [(0, 1), (0, 4), (1, 3), (3, 5), (2, 17), (4, 20), (0, 20)]
needs_kernel = pytest.mark.skipif(not kv_copy.available(), reason="no C compiler")


def make_store(*, num_blocks: int = 9, seed: int = 0, has_kernel: bool = True) -> TorchKVStore:
    store = TorchKVStore(SHAPES, num_blocks=num_blocks, block_size=4, dtype=torch.bfloat16, device=torch.device("cpu"))
    store._has_kernel = store._has_kernel and has_kernel
    generator = torch.Generator().manual_seed(seed)
    for layer in store.layers:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    return store


def expected(store: TorchKVStore, layer: int, blocks: list[int], start: int, end: int) -> torch.Tensor:
    """[2, end - start, heads, dim]"""
    return torch.stack([store.layers[layer][:, blocks[t // 4], t % 4] for t in range(start, end)], dim=1)


@pytest.mark.parametrize("has_kernel", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize(("start", "end"), RANGES)
def test_a_range_is_read_into_a_buffer_and_written_to_other_blocks(start: int, end: int, has_kernel: bool) -> None:
    source, target = make_store(has_kernel=has_kernel), make_store(seed=1, has_kernel=has_kernel)
    for layer in range(len(SHAPES)):
        nbytes = source.payloads[layer].unit_nbytes * (end - start)
        buffer = source.empty_payload(nbytes + 6)
        out = memoryview(bytearray(nbytes))
        source.read(layer, BLOCKS, start, end, out=buffer[4 : 4 + nbytes])
        source.read(layer, BLOCKS, start, end, out=out)
        wanted = expected(source, layer, BLOCKS, start, end)
        assert bytes(out) == buffer[4 : 4 + nbytes].numpy().tobytes() == wanted.view(torch.uint8).numpy().tobytes()
        before = target.layers[layer].clone()
        other = [5, 1, 8, 6, 3]
        for payload in (buffer[4 : 4 + nbytes], bytes(out)):
            target.layers[layer].copy_(before)
            target.write(layer, other, start, end, payload)
            assert expected(target, layer, other, start, end).equal(wanted)
            changed = (target.layers[layer] != before).flatten(3).any(3).any(0)  # [num_blocks, block_size]
            own = torch.zeros_like(changed)
            for t in range(start, end):
                own[other[t // 4], t % 4] = True
            assert not (changed & ~own).any(), "rows outside the range were written"


@needs_kernel
@pytest.mark.parametrize(("start", "end"), RANGES)
def test_a_range_is_copied_from_the_mapped_blocks_of_a_larger_worker(start: int, end: int) -> None:
    source, target = make_store(num_blocks=13), make_store(seed=1)
    assert source.memory is not None
    _, nbytes = target.foreign_caches(None, 13)
    view = memoryview(shared_memory.attach(source.memory.handle, nbytes))
    caches, _ = target.foreign_caches(view, 13)
    blocks, other = [12, 2, 3, 4, 0], [5, 1, 8, 6, 3]
    for layer, cache in enumerate(caches):
        payload = ForeignRange(cache, blocks[start // 4 : -(-end // 4)])
        target.write(layer, other, start, end, payload)
        assert expected(target, layer, other, start, end).equal(expected(source, layer, blocks, start, end))


@needs_kernel
def test_block_ids_outside_the_cache_copy_nothing() -> None:
    store = make_store()
    before = [layer.clone() for layer in store.layers]
    for blocks in ([0, 9], [-1, 0], [3]):
        with pytest.raises(AssertionError):
            store.write(0, blocks, 0, 8, bytes(store.payloads[0].unit_nbytes * 8))
    with pytest.raises(ValueError, match="takes"):
        store.write(0, [0, 1], 0, 8, b"short")
    assert all(a.equal(b) for a, b in zip(before, store.layers, strict=True))


def test_shared_memory_is_read_only_elsewhere_and_gone_with_its_owner() -> None:
    memory = shared_memory.SharedMemory(8192)
    memory.view[:3] = b"abc"
    code = f"""
from workers.model.shared_memory import attach
view = attach({memory.handle!r}, 8192)
print(view[:3].decode())
try:
    view[0] = 1
except TypeError as error:
    print("read-only")
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["abc", "read-only"]
    view = shared_memory.attach(memory.handle, 8192)
    handle = memory.handle
    del memory
    assert bytes(np.frombuffer(view, dtype=np.uint8)[:3]) == b"abc"
    with pytest.raises(OSError, match=r"."):
        shared_memory.attach(handle, 8192)


def test_a_handle_that_names_another_file_is_refused() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="not the 1 bytes"):
            shared_memory.attach(f"{os.getpid()}:{fd}:{os.fstat(fd).st_ino}", 1)
    finally:
        os.close(fd)
    with pytest.raises(ValueError, match="invalid literal"):
        shared_memory.attach("nothing", 1)
