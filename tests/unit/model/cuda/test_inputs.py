"""A step's numbers are where its graph reads them, whatever was there, and none is overwritten on its way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from workers.model.attention import PagedMeta, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.graph_sizes import GraphSize
from workers.model.cuda.inputs import ALIGNMENT, Buffers, StepInputs, Taken, nbytes_of, side_by_side, together

CPU = torch.device("cpu")
DECODE = GraphSize(2, 2, 2, 8, width=4)
MIXED = GraphSize(7, 4, 5, 16, is_mixed=True, has_trees=True)


@dataclass
class FakeMark:
    events: list[str]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = "ab"[len(self.events)]
        self.events.append(self.name)

    def set(self) -> None:
        self.events.append(f"set {self.name}")

    def wait(self) -> None:
        self.events.append(f"wait {self.name}")


def test_numbers_go_together_and_come_apart_again() -> None:
    parts = [torch.arange(6).view(1, 6), torch.tensor([9, 8]), torch.zeros(0, dtype=torch.int64)]
    for found, part in zip(together(parts, CPU), parts, strict=True):
        assert torch.equal(found, part)


def test_tables_of_one_width_end_in_blocks_that_exist() -> None:
    inputs = _inputs(DECODE)
    inputs.fill([7, 9], _meta((17, 1, [5, 3]), (0, 1, [2])), rows=[1])
    assert inputs.tokens.tolist() == [7, 9]
    assert inputs.positions.tolist() == [17, 0]
    assert inputs.slots.tolist() == [3 * 16 + 1, 2 * 16]
    assert inputs.rows.tolist() == [1, 0]
    assert inputs.tables.tolist() == [[5, 3, 0, 0], [2, 0, 0, 0]]
    assert inputs.table_start.tolist() == [0, 4]
    assert inputs.query_start.tolist() == [0, 1, 2]


def test_other_tables_lie_one_after_the_other_and_chunks_that_are_not_there_have_no_rows() -> None:
    inputs = _inputs(MIXED)
    meta = _meta((17, 4, [5, 3]), (0, 3, [2]), parents=(-1, -1, 1))
    inputs.fill([1, 2, 3, 4, 5, 6, 7], meta, rows=[0, 1, 2, 3])
    assert inputs.positions.tolist() == [17, 18, 18, 19, 0, 1, 2]
    assert inputs.rows.tolist() == [0, 1, 2, 3, 0]
    assert inputs.query_start.tolist() == [0, 4, 7, 7, 7]
    assert inputs.num_context.tolist() == [17, 0, 0, 0]
    assert inputs.is_tree.tolist() == [1, 0, 0, 0]
    assert inputs.table_start.tolist() == [0, 2, 0, 0]
    assert inputs.tables[:3].tolist() == [5, 3, 2]
    assert inputs.seen[None].tolist() == [0b1, 0b11, 0b101, 0b1101, 0, 0, 0]
    assert inputs.seen[2].tolist() == [0b1, 0b11, 0b101, 0b1100, 0, 0, 0]
    inputs.fill([1] * 7, _meta((0, 7, [9])))
    assert inputs.seen[2].tolist() == [0] * 7, "no tree this time"


def test_tokens_are_taken_from_the_device_after_the_copy() -> None:
    inputs = _inputs(DECODE)
    source = torch.tensor([70, 71, 72])
    meta = _meta((17, 1, [5, 3]), (0, 1, [2]))
    inputs.fill([0, 9], meta, taken=Taken(source, [0], [2]))
    assert inputs.tokens.tolist() == [72, 9]
    inputs.fill([0, 0], meta, taken=Taken(source, torch.tensor([0, 1]), torch.tensor([1, 0])))
    assert inputs.tokens.tolist() == [71, 70]
    inputs.fill([3, 4], meta, taken=Taken(source, [], []))
    assert inputs.tokens.tolist() == [3, 4]


def test_the_host_writes_where_the_copy_before_the_last_was_from_and_waits_for_that_alone() -> None:
    events: list[str] = []
    buffers = Buffers(nbytes_of(DECODE, 0), CPU, lambda: FakeMark(events))
    inputs = StepInputs(DECODE, buffers)
    meta = _meta((17, 1, [5, 3]), (0, 1, [2]))
    written = []
    for token in (1, 2, 3):
        inputs.fill([token, token], meta)
        written.append(sorted(int(one[:8].view(torch.int64)) for one in buffers.here))
    assert events == ["a", "b", "wait b", "set b", "wait a", "set a", "wait b", "set b"]
    assert written == [[0, 1], [1, 2], [2, 3]]


def test_sizes_share_memory_and_each_fills_all_that_it_reads() -> None:
    buffers = Buffers(max(nbytes_of(DECODE, 2), nbytes_of(MIXED, 2)), CPU)
    decode, mixed = StepInputs(DECODE, buffers, (None, 2)), StepInputs(MIXED, buffers, (None, 2))
    for _ in range(3):  # both turns of the host's
        for memory in (buffers.there, *buffers.here):
            memory.fill_(0x5A)
        mixed.fill([8] * 7, _meta((0, 7, [9])))
        decode.fill([7, 9], _meta((17, 1, [5, 3]), (0, 1, [2])))
        assert decode.tables.tolist() == [[5, 3, 0, 0], [2, 0, 0, 0]]
        assert decode.is_tree.tolist() == [0, 0]
        assert decode.rows.tolist() == [0, 0]


@pytest.mark.parametrize("size", [DECODE, MIXED, GraphSize(1, 1, 1, 3)], ids=str)
def test_every_part_begins_where_kernels_may_read_many_bytes_at_once(size: GraphSize) -> None:
    inputs = _inputs(size)
    base = inputs._buffers.there.data_ptr()
    parts = (inputs.tokens, inputs.positions, inputs.slots, inputs.rows, inputs.query_start, inputs.num_context)
    for part in (*parts, inputs.is_tree, inputs.table_start, inputs.tables, inputs._where, inputs._sources):
        assert (part.data_ptr() - base) % ALIGNMENT == 0


def test_tables_side_by_side() -> None:
    starts, tables = side_by_side(_meta((17, 1, [5, 3]), (0, 1, [2]), (40, 2, [7, 8, 1])))
    assert starts.tolist() == [0, 2, 3]
    assert tables.tolist() == [5, 3, 2, 7, 8, 1]


def _inputs(size: GraphSize) -> StepInputs:
    buffers = Buffers(nbytes_of(size, 2), CPU)
    for memory in (buffers.there, *buffers.here):
        memory.fill_(0x5A)
    return StepInputs(size, buffers, (None, 2))


def _meta(*spans: tuple[int, int, Sequence[int]], parents: Sequence[int] = ()) -> PagedMeta:
    """Of (context, new tokens, blocks); the first is a tree where `parents` are given."""
    chunks = [
        Chunk(
            token_ids=[0] * count,
            start=context,
            block_ids=blocks,
            num_sequence_tokens=context + count,
            parents=parents if not number else (),
        )
        for number, (context, count, blocks) in enumerate(spans)
    ]
    return build_meta(chunks, 16)
