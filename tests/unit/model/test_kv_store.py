"""What is read from blocks and written to them, with the C kernel and without."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from workers.model import shared_memory
from workers.model.contract import Unit
from workers.model.cpu import kv_copy
from workers.model.cpu.kv_copy import ForeignRange
from workers.model.kv_rows import HeldHeads, KVRows
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.model.places import Place, Turn
from workers.model.state_shape import StatePart, StateShape

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
    _, nbytes = target.foreign_caches(None, 13, 0)
    view = memoryview(shared_memory.attach(source.memory.handle, nbytes))
    caches, _ = target.foreign_caches(view, 13, 0)
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


def make_part(
    place: Place, heads: range, *, seed: int, num_blocks: int, has_kernel: bool
) -> tuple[TorchKVStore, KVRows]:
    """A rank's store of a model with 6 heads, and the part of it with `heads`."""
    held = place.heads(6)
    shapes = [LayerShape(num_kv_heads=len(held), head_dim=dim) for dim in (3, 8)]
    store = TorchKVStore(
        shapes,
        num_blocks=num_blocks,
        block_size=4,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        place=place,
        whole=[LayerShape(num_kv_heads=6, head_dim=dim) for dim in (3, 8)],
    )
    store._has_kernel = store._has_kernel and has_kernel
    generator = torch.Generator().manual_seed(seed)
    for layer in store.layers:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    return store, store.part(lambda _: heads)


@pytest.mark.parametrize("has_kernel", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize(("start", "end"), RANGES)
def test_some_heads_are_read_and_written_and_no_others_touched(start: int, end: int, has_kernel: bool) -> None:
    heads, other = range(2, 3), [5, 1, 8, 6, 3]
    source, source_part = make_part(Place(0, 2), heads, seed=0, num_blocks=9, has_kernel=has_kernel)
    target, target_part = make_part(Place(1, 3), heads, seed=1, num_blocks=11, has_kernel=has_kernel)  # holds 2 and 3
    assert source_part.payloads == target_part.payloads
    assert source_part.payloads[0].layout == "kv/heads=2-2of6/dim=3/bfloat16"
    for layer in range(2):
        wanted = expected(source, layer, BLOCKS, start, end)[:, :, 2:3]
        before = target.layers[layer].clone()
        payload = source_part.read(layer, BLOCKS, start, end)
        target_part.write(layer, other, start, end, payload)
        assert expected(target, layer, other, start, end)[:, :, :1].equal(wanted)
        assert target.layers[layer][..., 1, :].equal(before[..., 1, :]), "another head was written"
        if has_kernel and source.memory is not None:
            target.layers[layer].copy_(before)
            _, nbytes = target_part.foreign_caches(None, 9, 0, Place(0, 2))
            view = memoryview(shared_memory.attach(source.memory.handle, nbytes))
            cache = target_part.foreign_caches(view, 9, 0, Place(0, 2))[0][layer]
            target_part.write(layer, other, start, end, ForeignRange(cache, BLOCKS[start // 4 : -(-end // 4)]))
            assert expected(target, layer, other, start, end)[:, :, :1].equal(wanted)
            assert target.layers[layer][..., 1, :].equal(before[..., 1, :]), "another head was written"


def test_a_part_without_heads_has_no_payloads_and_all_heads_are_the_store_itself() -> None:
    store = make_store()
    assert store.part(lambda _: range(0)).payloads == ()
    assert store.part(lambda count: range(count)).payloads == store.payloads
    assert store.head_counts == {1, 2}
    assert store.part(lambda count: range(1, 2)).payloads[0].layout == "kv/heads=1-1of2/dim=3/bfloat16"


@pytest.mark.parametrize("has_kernel", [pytest.param(True, marks=needs_kernel), False])
def test_states_are_handed_over_head_by_head_beside_tokens(has_kernel: bool) -> None:
    """From one of two ranks to one of four; what a head has of a token and of a state are of unlike sizes."""

    def rank(place: Place, num_slots: int, seed: int) -> tuple[KVRows, torch.Tensor, torch.Tensor]:
        heads = place.heads(4)
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn((2, 8 * 4, len(heads) * 3), generator=generator)
        states = torch.randn((1, num_slots, len(heads) * 10), generator=generator)
        common = {"layer": 0, "num_heads": 4, "held": heads, "shown": heads}
        held = [
            HeldHeads(**common, head_nbytes=12, planes=2, block_units=4, layout="kv/heads={heads}"),
            HeldHeads(**common, unit=Unit.STATE, head_nbytes=40, planes=1, block_units=1, layout="state/heads={heads}"),
        ]
        rows = KVRows(
            held,
            [tokens, states],
            num_blocks=8,
            num_states=num_slots,
            block_size=4,
            has_kernel=has_kernel,
            memory=None,
        )
        return rows, tokens, states

    source, _, states = rank(Place(0, 2), 3, seed=0)  # heads 0 and 1
    target, tokens_there, states_there = rank(Place(1, 4), 5, seed=1)  # head 1
    before = tokens_there.clone(), states_there.clone()
    out, into = source.part(lambda _: range(1, 2)), target.part(lambda _: range(1, 2))
    assert out.payloads == into.payloads
    assert [spec.unit for spec in out.payloads] == [Unit.TOKEN, Unit.STATE]
    into.write(1, [4], 0, 1, out.read(1, [2], 0, 1))
    assert states_there[0, 4].equal(states[0, 2, 10:])
    assert states_there[0, :4].equal(before[1][0, :4])
    assert tokens_there.equal(before[0])


RECURRENT = StatePart("recurrent", 2, (3, 5), torch.float32)
INPUTS = StatePart("conv.q", 2, (3, 3), torch.bfloat16)


def make_hybrid(*, num_states: int = 5, seed: int = 0, has_kernel: bool = True) -> TorchKVStore:
    shapes = (SHAPES[0], StateShape((RECURRENT, INPUTS)), SHAPES[1])
    store = TorchKVStore(
        shapes, num_blocks=9, block_size=4, dtype=torch.bfloat16, device=torch.device("cpu"), num_states=num_states
    )
    store._has_kernel = store._has_kernel and has_kernel
    generator = torch.Generator().manual_seed(seed)
    for part in store.states[0]:
        part.copy_(torch.randn(part.shape, generator=generator))
    return store


def test_a_rank_holds_the_states_of_its_own_heads_and_of_those_it_shares() -> None:
    def state(num_heads: int, num_groups: int) -> StateShape:
        parts = replace(RECURRENT, num_heads=num_heads), replace(INPUTS, name="conv.B", num_heads=num_groups)
        return StateShape(parts)

    store = TorchKVStore(
        [state(2, 1), LayerShape(num_kv_heads=1, head_dim=3)],
        num_blocks=9,
        block_size=4,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        place=Place(3, 4),
        whole=[state(8, 2), LayerShape(num_kv_heads=4, head_dim=3)],
        num_states=5,
    )
    assert [part.shape[:2] for part in store.states[0]] == [(5, 2), (5, 1)]
    layouts = [payload.layout for payload in store.payloads]
    assert layouts[:2] == ["state/recurrent/heads=6-7of8/3x5/float32", "state/conv.B/heads=1-1of2/3x3/bfloat16"]
    assert store.head_counts == {8, 2, 4}


@pytest.mark.parametrize("has_kernel", [pytest.param(True, marks=needs_kernel), False])
def test_a_state_is_one_unit_of_each_of_its_parts(has_kernel: bool) -> None:
    source = make_hybrid(has_kernel=has_kernel)
    target = make_hybrid(num_states=3, seed=1, has_kernel=has_kernel)
    assert [spec.unit for spec in source.payloads] == [Unit.TOKEN, Unit.STATE, Unit.STATE, Unit.TOKEN]
    assert [spec.unit_nbytes for spec in source.payloads][1:3] == [2 * 3 * 5 * 4, 2 * 3 * 3 * 2]
    for index in (1, 2):
        payload = source.read(index, [4], 0, 1)
        target.write(index, [1], 0, 1, payload)
    for part, other in zip(target.states[0], source.states[0], strict=True):
        assert part[1].equal(other[4])
        assert not part[0].equal(other[4])


@needs_kernel
def test_a_state_is_copied_from_the_mapped_slots_of_a_larger_worker() -> None:
    source, target = make_hybrid(num_states=7), make_hybrid(num_states=3, seed=1)
    assert source.memory is not None
    _, nbytes = target.foreign_caches(None, 9, 7)
    view = memoryview(shared_memory.attach(source.memory.handle, nbytes))
    caches, _ = target.foreign_caches(view, 9, 7)
    for index in (1, 2):
        target.write(index, [2], 0, 1, ForeignRange(caches[index], [6]))
    assert all(part[2].equal(other[6]) for part, other in zip(target.states[0], source.states[0], strict=True))


def test_states_are_copied_from_slot_to_slot() -> None:
    store = make_hybrid()
    before = [part.clone() for part in store.states[0]]
    store.copy_states([(0, 3), (1, 4)])
    for part, was in zip(store.states[0], before, strict=True):
        assert part.equal(was[[0, 1, 2, 0, 1]])


def test_a_turn_shows_its_blocks_alone_and_the_last_turn_the_states() -> None:
    store = make_hybrid()
    shown = [store.part(lambda count: range(count), Turn(number, 3)).payloads for number in range(3)]
    tokens, states = Unit.TOKEN, Unit.STATE
    assert [[spec.unit for spec in payloads] for payloads in shown] == [
        [tokens, tokens],
        [tokens, tokens],
        [tokens, states, states, tokens],
    ]
    assert [payloads[0].num_units(22) for payloads in shown] == [8, 8, 6], "of blocks 0 to 5 the last holds two"
    assert [payloads[0].num_cached(9) for payloads in shown] == [4, 4, 1]
    assert [payloads[0].num_final(6, 22) for payloads in shown] == [4, 2, 0]
    assert [(spec.num_units(22), spec.num_cached(9), spec.num_final(21, 22)) for spec in shown[2][1:3]] == [
        (1, 0, 0)
    ] * 2
