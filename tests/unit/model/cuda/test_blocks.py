"""The kernel that gathers blocks and scatters them copies what torch copies, and touches nothing else."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.model.cuda import blocks
from workers.model.cuda.blocks import Piece, copies_right, gather, scatter
from workers.model.kv_rows import KVRows
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.model.state_shape import StatePart, StateShape

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float16)
PIECES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1, 4, 16]), st.integers(0, 40), st.integers(1, 40)),
    min_size=1,
    max_size=5,
)


def slots_of(piece: Piece) -> list[int]:
    units = piece.block_units
    return [piece.block_ids[unit // units] * units + unit % units for unit in range(piece.start, piece.end)]


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))


@settings(max_examples=40)
@given(
    given_pieces=PIECES, width=st.sampled_from([1, 3, 8, 24, 300]), column=st.integers(0, 5), seed=st.integers(0, 99)
)
def test_pieces_of_any_size_of_any_type_are_moved_at_once(
    given_pieces: list[tuple[int, int, int, int]], width: int, column: int, seed: int
) -> None:
    rng = random.Random(seed)
    pieces, again = [], []
    for which, units, start, count in given_pieces:
        num_blocks = -(-(start + count) // units) + 2
        held = torch.randn(2, num_blocks * units, width + column).to(DTYPES[which])
        rows = held[:, :, column:]
        ids = rng.sample(range(num_blocks), num_blocks)
        flat = torch.zeros(2 * count * width * rows.element_size() + 8, dtype=torch.uint8)[8:]
        pieces.append(Piece(rows, units, ids, start, start + count, flat))
        other = torch.zeros_like(held)[:, :, column:]
        again.append(Piece(other, units, ids[::-1], start, start + count, flat))
    gather(pieces)
    for piece in pieces:
        assert same_bytes(piece.flat, piece.rows[:, slots_of(piece)].reshape(-1))
    scatter(again)
    for piece, other in zip(pieces, again, strict=True):
        want = torch.zeros_like(other.rows)
        want[:, slots_of(other)] = piece.rows[:, slots_of(piece)]
        assert same_bytes(other.rows, want)


def test_blocks_that_are_not_there_move_nothing() -> None:
    rows, flat = torch.zeros(2, 12, 4), torch.zeros(2 * 8 * 16, dtype=torch.uint8)
    for ids in ([0, 3], [-1, 0]):
        with pytest.raises(AssertionError, match="block"):
            gather([Piece(rows, 4, ids, 0, 8, flat)])
    with pytest.raises(AssertionError, match="do not hold 8 units"):
        gather([Piece(rows, 4, [1], 0, 8, flat)])
    with pytest.raises(AssertionError, match="another size"):
        gather([Piece(rows, 4, [1, 2], 0, 7, flat)])


def test_it_finds_itself_right_here_and_is_not_used_on_a_cpu() -> None:
    assert copies_right(CPU)
    assert not blocks.works(CPU)


RECURRENT = StatePart("recurrent", 2, (3, 5), torch.float32)
INPUTS = StatePart("conv.q", 2, (3, 3), torch.bfloat16)
SHAPES = (LayerShape(num_kv_heads=2, head_dim=6), StateShape((RECURRENT, INPUTS)), LayerShape(2, 8))


def make_store(*, has_mover: bool, device: torch.device = CPU) -> TorchKVStore:
    store = TorchKVStore(
        SHAPES,
        num_blocks=9,
        block_size=4,
        dtype=torch.bfloat16,
        device=device,
        num_states=5,
    )
    store._has_kernel, store._has_mover = False, has_mover
    generator = torch.Generator().manual_seed(0)
    for tensor in all_of(store):
        tensor.copy_(torch.randn(tensor.shape, generator=generator).to(device))
    return store


def all_of(store: TorchKVStore) -> list[torch.Tensor]:
    return [*store.layers, *(part for parts in store.states for part in parts)]


def spans_of(store: KVRows) -> list[Span]:
    """Of tokens some, of states one."""
    key = TransferKey("r", 0, 0)
    tokens, states = [7, 2, 3, 4, 0], [3]
    return [
        Span(key, index, 2, 17, tokens) if spec.layer != 1 else Span(key, index, 0, 1, states)
        for index, spec in enumerate(store.payloads)
    ]


@pytest.mark.parametrize("heads", [range(2), range(1, 2)])
def test_a_store_reads_and_writes_all_at_once_as_torch_does(heads: range) -> None:
    found = []
    for has_mover in (True, False):
        source, target = make_store(has_mover=has_mover), make_store(has_mover=has_mover)
        out, into = source.part(lambda _: heads), target.part(lambda _: heads)
        for part in (out, into):
            part._has_kernel, part._has_mover = False, has_mover
        spans = spans_of(out)
        sizes = [out.payloads[span.index].unit_nbytes * (span.end - span.start) for span in spans]
        payloads = list(torch.split(out.empty_payload(sum(sizes)), sizes))
        out.read_all(spans, payloads)
        one = out.read(0, spans[0].block_ids, 3, 9)
        other = [Span(span.key, span.index, span.start, span.end, span.block_ids[::-1]) for span in spans]
        into.write_all(other, payloads)
        into.write(0, [8], 0, 4, one[: len(one) // 6 * 4])
        found.append([*payloads, one, *all_of(target)])
    assert all(same_bytes(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("most", [1, 1 << 20])
def test_copies_within_a_store_read_every_source_before_a_target_is_written(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.model.kv_store.MAX_MOVED_BYTES", most)
    stores = [make_store(has_mover=has_mover) for has_mover in (True, False)]
    for store in stores:
        store.copy_blocks([(0, 1), (1, 2), (8, 0)])
        store.copy_tokens([(35, 13), (13, 14), (14, 0)])
        store.copy_states([(4, 0), (0, 1)])
    assert all(same_bytes(a, b) for a, b in zip(*map(all_of, stores), strict=True))


def test_a_step_of_a_link_takes_one_launch_and_a_copy_within_the_store_two(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.model.cuda.kernels import blocks as kernels

    launched: list[tuple[int, int]] = []

    class Counting:
        def __getitem__(self, grid: tuple[int, int]) -> object:
            launched.append(grid)
            return move[grid]

    move = kernels.move
    monkeypatch.setattr(kernels, "move", Counting())
    store = make_store(has_mover=True)
    spans = spans_of(store)
    sizes = [store.payloads[span.index].unit_nbytes * (span.end - span.start) for span in spans]
    payloads = list(torch.split(store.empty_payload(sum(sizes)), sizes))
    store.read_all(spans, payloads)
    store.write_all(spans, payloads)
    assert [pieces for _, pieces in launched] == [4, 4]
    store.copy_tokens([(3, 5), (5, 7)])
    assert [pieces for _, pieces in launched[2:]] == [2, 2]
