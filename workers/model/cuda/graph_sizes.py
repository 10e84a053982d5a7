"""Which steps share a CUDA graph: the sizes to which they are padded. Pure.

A decode has one new token of each sequence. Any other step is mixed: chunks of prompts, single tokens and drafts. Above
the largest sizes a step takes the device longer than its launches take the host (docs/gpu.md), and no graph is needed.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workers.model.contract import Chunk, Row

DECODES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # sequences
MIXED = (16, 32, 64, 128, 192, 256, 320, 384, 448, 512)  # tokens
MAX_ROWS = 256  # of logits
MIN_WIDTH = 16  # blocks
NUM_USUAL_WIDTHS = 2  # that are captured at start
MAX_ENTRIES = 1 << 20  # of all tables of a step


class GraphSize(NamedTuple):
    """What a graph holds at most.

    Attributes:
        num_rows: Of logits.
        num_entries: Of all chunks' tables.
        width: Blocks of each chunk's table; None: tables lie one after the other.
        has_trees: Chunks may be trees, which costs those that are none.
    """

    num_tokens: int
    num_chunks: int
    num_rows: int
    num_entries: int
    width: int | None = None
    is_mixed: bool = False
    has_trees: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSizes:
    """
    Args:
        max_sequences, max_tokens: Of a step.
        max_blocks: Of a sequence.
        block_size: Tokens of a block.
        has_width: Decodes read tables of one width.
        has_mixed: Mixed steps have graphs.
        has_trees: Trees of drafts are usual.
    """

    max_sequences: int
    max_tokens: int
    max_blocks: int
    block_size: int
    has_width: bool = False
    has_mixed: bool = True
    has_trees: bool = False

    def of(self, chunks: Sequence[Chunk], rows: Sequence[Row]) -> GraphSize | None:
        """None: there is no graph for such a step."""
        num_tokens = sum(len(chunk.token_ids) for chunk in chunks)
        counts = [-(-(chunk.start + len(chunk.token_ids)) // self.block_size) for chunk in chunks]
        if num_tokens == len(chunks):
            size = self._decode(num_tokens, max(counts) if self.has_width else None)
        else:
            size = self._mixed(num_tokens, has_trees=any(chunk.parents for chunk in chunks))
        if size is None or sum(1 + row.num_drafts for row in rows) > size.num_rows:
            return None
        num_chunks = len(chunks) + (size.is_mixed and num_tokens < size.num_tokens)  # with one of padding
        is_held = num_chunks <= size.num_chunks and sum(counts) <= self._entries(size.num_chunks)
        return size if is_held else None

    def usual(self) -> Iterator[GraphSize]:
        """In the order in which they are to be captured: the largest, in whose memory others find room, then those
        that are used most."""
        widths: list[int | None] = [None]
        if self.has_width:
            least = [MIN_WIDTH << i for i in range(NUM_USUAL_WIDTHS)]
            widths = [width for width in least if width <= _width(self.max_blocks)]
        decodes = [self._decode(number, width) for width in widths for number in _upto(DECODES, self.max_sequences)]
        tokens = _upto(MIXED, self.max_tokens) if self.has_mixed else ()
        kinds = (False, True) if self.has_trees else (False,)
        mixed = [self._mixed(number, has_trees=has_trees) for has_trees in kinds for number in tokens]
        found = [size for size in (*decodes, *mixed) if size is not None]
        largest = max(found, key=lambda size: size.num_tokens)
        return iter(dict.fromkeys([largest, *found]))

    @property
    def max_rows(self) -> int:
        return self.largest.num_rows

    @property
    def largest(self) -> GraphSize:
        """None has more of anything; no graph's."""
        decode = _upto(DECODES, self.max_sequences)[-1]
        mixed = self._mixed(_upto(MIXED, self.max_tokens)[-1], has_trees=True)
        num_entries = self._entries(decode) + decode
        if self.has_width:
            num_entries = min(decode * _width(self.max_blocks), MAX_ENTRIES)
        found = GraphSize(decode, decode, decode, num_entries)
        if mixed is None:
            return found
        tokens, num_chunks, num_rows, num_entries = (max(pair) for pair in zip(found[:4], mixed[:4], strict=True))
        return GraphSize(tokens, num_chunks, num_rows, num_entries, has_trees=True)

    def _decode(self, number: int, width: int | None) -> GraphSize | None:
        """`width`: of the widest table; None: none is needed."""
        size = next((size for size in _upto(DECODES, self.max_sequences) if size >= number), None)
        if size is None:
            return None
        if width is None:
            return GraphSize(size, size, size, self._entries(size) + size)
        num_entries = size * _width(width)
        return GraphSize(size, size, size, num_entries, _width(width)) if num_entries <= MAX_ENTRIES else None

    def _mixed(self, num_tokens: int, *, has_trees: bool) -> GraphSize | None:
        size = next((size for size in _upto(MIXED, self.max_tokens) if size >= num_tokens), None)
        if size is None or not self.has_mixed:
            return None
        num_chunks = min(size, self.max_sequences) + 1
        num_entries = self._entries(num_chunks) - (-size // self.block_size)  # with those of padding
        return GraphSize(size, num_chunks, min(size, MAX_ROWS), num_entries, is_mixed=True, has_trees=has_trees)

    def _entries(self, num_chunks: int) -> int:
        """Of the tables of so many."""
        return min(num_chunks * self.max_blocks, MAX_ENTRIES)


def _width(num_blocks: int) -> int:
    return max(MIN_WIDTH, 1 << (num_blocks - 1).bit_length())


def _upto(sizes: Sequence[int], most: int) -> Sequence[int]:
    """The sizes up to the first that holds `most`."""
    return sizes[: bisect_left(sizes, most) + 1]
