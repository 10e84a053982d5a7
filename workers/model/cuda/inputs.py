"""A step's numbers on their way to the device: where a CUDA graph reads them, or anew where none is replayed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from workers.model.attention import PagedMeta
from workers.model.contract import Chunk
from workers.model.cuda.graph_sizes import GraphSize
from workers.model.cuda.launching import StreamMark, to_device

ALIGNMENT = 16  # bytes: kernels are compiled anew for what is not
NUM_TURNS = 2
INT_NBYTES, LONG_NBYTES = 4, 8


def together(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors of int64 on the device, by one copy that nobody waits for."""
    packed = torch.cat([part.reshape(-1) for part in parts])
    there = torch.split(to_device(packed, device), [part.numel() for part in parts])
    return [mine.view(part.shape) for mine, part in zip(there, parts, strict=True)]


def following(chunks: Sequence[Chunk]) -> Tensor:
    """[2, n] int64, of the chunks whose token the last step draws: its place among the step's tokens, and that row."""
    places: list[int] = []
    rows: list[int] = []
    at = 0
    for chunk in chunks:
        if chunk.follows is not None:
            places.append(at)
            rows.append(chunk.follows)
        at += len(chunk.token_ids)
    return torch.tensor([places, rows], dtype=torch.int64)


def side_by_side(meta: PagedMeta) -> tuple[Any, Any]:
    """Where each chunk's table begins, [num_chunks], and all tables one after the other: int32 arrays."""
    counts = np.array([len(blocks) for blocks in meta.block_ids], dtype=np.int32)
    tables = meta.block_tables.numpy()
    starts = np.cumsum(counts, dtype=np.int32) - counts
    return starts, tables[np.arange(tables.shape[1]) < counts[:, None]]


class Taken(NamedTuple):
    """Tokens of a step that the device alone knows.

    Attributes:
        source: int64, on the device: made on the stream that runs the step.
        where: Which of the step's tokens, from 0; each once.
        rows: For each of them, its place in `source`.
    """

    source: Tensor
    where: Sequence[int] | Tensor
    rows: Sequence[int] | Tensor


class Mark(Protocol):
    """See `StreamMark`."""

    def set(self) -> None: ...

    def wait(self) -> None: ...


class Buffers:
    """Memory for the numbers of any step.

    On the device there is one, since steps run one after the other; on the host two, pinned, in turn: the next step's
    are written while the last one's may still be on their way.
    """

    def __init__(self, nbytes: int, device: torch.device, make_mark: Callable[[], Mark] | None = None) -> None:
        make_mark = make_mark or (lambda: StreamMark(device))
        is_cuda = device.type == "cuda"
        nbytes = -(-nbytes // LONG_NBYTES) * LONG_NBYTES
        self.nbytes = nbytes
        self.device = device
        self.there = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        self.here = [torch.zeros(nbytes, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(NUM_TURNS)]
        self._longs = self.there.view(torch.int64)  # fewer elements to copy
        self._long_turns = [one.view(torch.int64) for one in self.here]
        self._marks = [make_mark() for _ in range(NUM_TURNS)]
        self._turn = 0

    def begin(self) -> int:
        """Which of `here` is to be written now: its last copy is over."""
        self._turn = (self._turn + 1) % NUM_TURNS
        self._marks[self._turn].wait()
        return self._turn

    def send(self, nbytes: int) -> None:
        """Copies the first bytes of that one to `there`, without waiting."""
        number = -(-nbytes // LONG_NBYTES)
        self._longs[:number].copy_(self._long_turns[self._turn][:number], non_blocking=True)
        self._marks[self._turn].set()


class StepInputs:
    """Of the steps of one size: parts of `buffers`, which other sizes use too.

    Attributes:
        tokens, positions, slots: [num_tokens] int64, as in a `PagedMeta`.
        rows: [num_rows] int64: of which tokens logits are wanted; of padding the first.
        seen: By window [num_tokens] int64, as `PagedMeta.seen_rows`; empty where no chunk is a tree.
        query_start: [num_chunks + 1] int32: past the step's last chunk `num_tokens`, so that others have no rows.
        num_context, is_tree, table_start: [num_chunks] int32.
        tables: int32: [num_chunks, width], or all chunks' one after the other where tables have no width.
    """

    def __init__(self, size: GraphSize, buffers: Buffers, windows: Sequence[int | None] = ()) -> None:
        self.size = size
        self._buffers = buffers
        windows = windows if size.has_trees else ()
        parts, self._tables_at = _layout(size, len(windows))
        there = _cut(buffers.there, parts)
        self.tokens, self.positions, self.slots = there["tokens"], there["positions"], there["slots"]
        self.rows = there["rows"]
        self.seen = dict(zip(windows, there["seen"].view(len(windows), size.num_tokens), strict=True))
        self.query_start, self.num_context = there["query_start"], there["num_context"]
        self.is_tree, self.table_start = there["is_tree"], there["table_start"]
        self.tables = there["tables"] if size.width is None else there["tables"].view(size.num_chunks, size.width)
        self._where, self._sources = there["where"], there["sources"]
        self._here = [{name: part.numpy() for name, part in _cut(one, parts).items()} for one in buffers.here]

    def fill(
        self, token_ids: Sequence[int], meta: PagedMeta, rows: Sequence[int] = (), taken: Taken | None = None
    ) -> None:
        """In one copy, and two small launches where tokens are `taken`; without waiting for the device.

        Args:
            meta: Of as many tokens as `size` has, and no more chunks.
        """
        size, num_chunks = self.size, meta.num_chunks
        assert meta.num_tokens == len(token_ids) == size.num_tokens, "padded to the size"
        here = self._here[self._buffers.begin()]
        here["tokens"][:] = token_ids
        here["positions"][:] = meta.positions.numpy()
        here["slots"][:] = meta.slot_mapping.numpy()
        _put(here["rows"], rows)
        for window, part in zip(self.seen, here["seen"].reshape(len(self.seen), size.num_tokens), strict=True):
            seen = meta.seen_rows(window)
            part[:] = 0 if seen is None else seen.numpy()
        here["query_start"][: num_chunks + 1] = meta.query_start.numpy()
        here["query_start"][num_chunks + 1 :] = size.num_tokens
        _put(here["num_context"], meta.num_context.numpy())
        here["is_tree"][:] = 0
        here["is_tree"][list(meta.trees)] = 1
        num_entries = self._put_tables(here, meta)
        num_taken = 0 if taken is None else len(taken.where)
        if taken is not None:
            here["where"][:num_taken] = taken.where
            here["sources"][:num_taken] = taken.rows
        self._buffers.send(self._tables_at + INT_NBYTES * num_entries)
        if taken is not None and num_taken:
            take_tokens(self.tokens, taken.source, self._where[:num_taken], self._sources[:num_taken])

    def _put_tables(self, here: dict[str, Any], meta: PagedMeta) -> int:
        """How many numbers they are."""
        size = self.size
        if size.width is None:
            starts, tables = side_by_side(meta)
            _put(here["table_start"], starts)
            here["tables"][: len(tables)] = tables
            return len(tables)
        tables = meta.block_tables.numpy()
        here["table_start"][:] = np.arange(size.num_chunks) * size.width
        there = here["tables"].reshape(size.num_chunks, size.width)
        there[:, : tables.shape[1]] = tables
        there[:, tables.shape[1] :] = 0  # a block that exists
        return size.num_entries


def take_tokens(tokens: Tensor, source: Tensor, where: Tensor, rows: Tensor) -> None:
    """tokens[where[i]] = source[rows[i]]: all of int64 and on the device, where nothing waits."""
    tokens.index_copy_(0, where, source.index_select(0, rows))


def nbytes_of(size: GraphSize, num_windows: int) -> int:
    """What `StepInputs` of such a size take of `Buffers`."""
    _, tables_at = _layout(size, num_windows if size.has_trees else 0)
    return tables_at + INT_NBYTES * size.num_entries


class _Part(NamedTuple):
    begin: int  # bytes
    number: int
    dtype: torch.dtype


def _layout(size: GraphSize, num_windows: int) -> tuple[dict[str, _Part], int]:
    """Where each part lies, and where tables begin, the last: what is copied ends where they do."""
    longs = dict.fromkeys(("tokens", "positions", "slots", "where", "sources"), size.num_tokens)
    longs |= {"rows": size.num_rows, "seen": num_windows * size.num_tokens}
    ints = {"query_start": size.num_chunks + 1}
    ints |= dict.fromkeys(("num_context", "is_tree", "table_start"), size.num_chunks)
    ints["tables"] = size.num_entries
    parts: dict[str, _Part] = {}
    at = 0
    for counts, dtype, nbytes in ((longs, torch.int64, LONG_NBYTES), (ints, torch.int32, INT_NBYTES)):
        for name, count in counts.items():
            parts[name] = _Part(at, count, dtype)
            at += -(-count * nbytes // ALIGNMENT) * ALIGNMENT
    return parts, parts["tables"].begin


def _cut(memory: Tensor, parts: dict[str, _Part]) -> dict[str, Tensor]:
    return {
        name: memory[begin : begin + number * dtype.itemsize].view(dtype)
        for name, (begin, number, dtype) in parts.items()
    }


def _put(part: Any, values: Any) -> None:
    """And zeros after them."""
    part[: len(values)] = values
    part[len(values) :] = 0
