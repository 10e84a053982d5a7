"""A step as the leader tells it to the followers: what to compute, without what only the leader needs to sample.

Numbers are int32 in this machine's byte order; a gang's machines are of one kind.
"""

import enum
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.adapters.adapter import AdapterSpec
from workers.model.contract import Chunk, ChunkKind, Row

HEADER = struct.Struct("=BIIII")  # kind, chunks, rows or pairs, numbers, bytes of the note
COMPUTE, SETTLE, LOAD, UNLOAD, COMPUTE_AHEAD = 0, 4, 5, 6, 7
NUMBER_BYTES = 4
CHUNK_HEAD = 10  # numbers before its tokens
KINDS = (ChunkKind.PREFILL, ChunkKind.DECODE, ChunkKind.DRAFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """
    Attributes:
        note: Of whoever gives it to the leader's runner, for its counterparts beside the followers' runners.
        is_ahead: The leader does not wait for it either: the next may come before it is done.
    """

    chunks: Sequence[Chunk]
    rows: Sequence[Row]
    note: bytes = b""
    is_ahead: bool = False


class Copied(enum.IntEnum):
    BLOCKS = 1
    STATES = 2
    TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Of `source` to `target` in every layer, for each (source, target): of blocks, slots for states, or places."""

    pairs: Sequence[tuple[int, int]]
    what: Copied = Copied.BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """What came of the last `Compute`'s drafts.

    Attributes:
        num_tokens: By slot of a state: how many tokens of its chunk count.
    """

    num_tokens: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Of an adapter, which chunks name by its id from now on. Each follower answers how it went."""

    adapter_id: int
    adapter: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Of an adapter that no chunk names any more."""

    adapter_id: int


Step = Compute | Copy | Settle | Load | Unload


def encode(step: Step, block_size: int) -> bytes:
    """Of a chunk's blocks, those that its tokens reach."""
    if isinstance(step, Copy):
        return _encoded_pairs(step.what, step.pairs)
    if isinstance(step, Settle):
        return _encoded_pairs(SETTLE, list(step.num_tokens.items()))
    if isinstance(step, Load):
        return _encoded_load(step)
    if isinstance(step, Unload):
        return HEADER.pack(UNLOAD, 0, 0, 1, 0) + _packed([step.adapter_id])
    numbers: list[int] = []
    for chunk in step.chunks:
        num_tokens = len(chunk.token_ids)
        num_blocks = -(-(chunk.start + num_tokens) // block_size)
        slot = 0 if chunk.state_id is None else chunk.state_id + 1
        kind_number = KINDS.index(chunk.kind)
        num_sequence_tokens, num_parents = chunk.num_sequence_tokens, len(chunk.parents)
        numbers += (chunk.start, num_tokens, num_blocks, num_sequence_tokens, kind_number, slot, num_parents)
        numbers += (chunk.adapter_id, chunk.num_scored, 0 if chunk.follows is None else chunk.follows + 1)
        numbers += chunk.token_ids
        numbers += chunk.block_ids[:num_blocks]
        numbers += chunk.parents
    for row in step.rows:
        numbers += row
    kind = COMPUTE_AHEAD if step.is_ahead else COMPUTE
    head = HEADER.pack(kind, len(step.chunks), len(step.rows), len(numbers), len(step.note))
    return head + _packed(numbers) + step.note


def decode(message: bytes | bytearray) -> Step:
    kind, num_chunks, num_rows, num_numbers, num_note = HEADER.unpack_from(message)
    end = HEADER.size + num_numbers * NUMBER_BYTES
    numbers = struct.unpack_from(f"={num_numbers}i", message, HEADER.size)
    if kind == LOAD:
        name, folder, content_hash = json.loads(message[end : end + num_note])
        adapter = AdapterSpec(name=name, folder=folder, content_hash=content_hash)
        return Load(adapter_id=numbers[0], adapter=adapter)
    if kind == UNLOAD:
        return Unload(adapter_id=numbers[0])
    if kind not in (COMPUTE, COMPUTE_AHEAD):
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        return Settle(num_tokens=dict(pairs)) if kind == SETTLE else Copy(pairs=pairs, what=Copied(kind))
    chunks = list(_chunks(numbers, num_chunks))
    tail = numbers[len(numbers) - 2 * num_rows :]
    rows = [Row(chunk, drafts) for chunk, drafts in zip(tail[::2], tail[1::2], strict=True)]
    return Compute(chunks=chunks, rows=rows, note=bytes(message[end : end + num_note]), is_ahead=kind == COMPUTE_AHEAD)


def _encoded_pairs(kind: int, pairs: Sequence[tuple[int, int]]) -> bytes:
    numbers = [number for pair in pairs for number in pair]
    return HEADER.pack(kind, 0, len(pairs), len(numbers), 0) + _packed(numbers)


def _encoded_load(step: Load) -> bytes:
    adapter = step.adapter
    note = json.dumps([adapter.name, adapter.folder, adapter.content_hash]).encode()
    return HEADER.pack(LOAD, 0, 0, 1, len(note)) + _packed([step.adapter_id]) + note


def _packed(numbers: list[int]) -> bytes:
    """In one call: 4,000 block ids take 120 us so, and twice that where each sequence is packed by itself."""
    return struct.pack(f"={len(numbers)}i", *numbers)


def _chunks(numbers: Sequence[int], count: int) -> Iterator[Chunk]:
    at = 0
    for _ in range(count):
        head = numbers[at : at + CHUNK_HEAD]
        start, num_tokens, num_blocks, num_sequence_tokens, kind, slot, num_parents = head[:7]
        adapter_id, num_scored, follows = head[7:]
        tokens_end = at + CHUNK_HEAD + num_tokens
        end = tokens_end + num_blocks + num_parents
        yield Chunk(
            token_ids=numbers[at + CHUNK_HEAD : tokens_end],
            start=start,
            block_ids=numbers[tokens_end : tokens_end + num_blocks],
            num_sequence_tokens=num_sequence_tokens,
            kind=KINDS[kind],
            state_id=slot - 1 if slot else None,
            parents=numbers[end - num_parents : end],
            adapter_id=adapter_id,
            num_scored=num_scored,
            follows=follows - 1 if follows else None,
        )
        at = end
