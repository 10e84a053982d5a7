"""The kernel of all-gathers among the ranks of one machine, see exchange.c."""

import ctypes
import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workers.model.cpu import native

MAX_RANKS = 64
MAX_OPEN = 512
HEAD_BYTES = 4096
POINTER, INT = ctypes.c_void_p, ctypes.c_int64
GONE = "the ranks beside this one are gone"


class _Gather(ctypes.Structure):
    _fields_ = (("out", POINTER), ("at", INT), ("bytes", INT))


class _Ranks(ctypes.Structure):
    """`baton_ranks` of exchange.c."""

    _fields_ = (
        ("rank", INT),
        ("size", INT),
        ("ring_bytes", INT),
        ("num_begun", INT),
        ("num_whole", INT),
        ("end", INT),
        ("written", INT),
        ("read", INT * MAX_RANKS),
        ("abort", ctypes.POINTER(ctypes.c_int32)),
        ("segments", POINTER * MAX_RANKS),
        ("open", _Gather * MAX_OPEN),
    )


@functools.cache
def _library() -> Any:
    library: Any = native.load("exchange")
    if library is not None:
        library.baton_exchange_begin.argtypes = (POINTER, POINTER, INT)
        library.baton_exchange_look.argtypes = (POINTER, INT, INT)
        library.baton_exchange_wait.argtypes = (POINTER, INT, INT)
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


def segment_bytes(ring_bytes: int) -> int:
    return HEAD_BYTES + ring_bytes


class Exchange:
    """One rank's end. One thread at a time computes; `abort` may be called from any.

    Args:
        addresses: Of each rank's segment as this process sees it, zeroed before the first call of any rank.
        ring_bytes: Of a rank's parts, how much another may not have read yet. A rank never waits for room: what is
            beyond stays in its own memory, and follows with its next calls.
        memories: What they point to, kept as long as this.
    """

    def __init__(self, addresses: Sequence[int], *, rank: int, ring_bytes: int, memories: Sequence[Any] = ()) -> None:
        self._memories = memories
        self._abort = ctypes.c_int32(0)
        self._ranks = _Ranks(
            rank=rank,
            size=len(addresses),
            ring_bytes=ring_bytes,
            abort=ctypes.pointer(self._abort),
            segments=(POINTER * MAX_RANKS)(*addresses),
        )
        self._rank, self._size = rank, len(addresses)
        self._at = ctypes.addressof(self._ranks)
        self._library = _library()
        self._open: deque[Tensor] = deque()  # the kernel writes to them

    def begin(self, part: Tensor) -> "Part":
        """Starts a gather of what every rank gives, of the same size everywhere. Raises: RuntimeError: aborted."""
        out = part.new_empty((self._size, *part.shape))
        out[self._rank] = part
        self._open.append(out)
        number = self._ranks.num_begun
        if self._library.baton_exchange_begin(self._at, out.data_ptr(), part.nbytes):
            raise RuntimeError(GONE)
        return Part(self, number, out)

    def is_there(self, number: int, num_ranks: int) -> bool:
        """Whether gather `number` has the parts of the first `num_ranks`. Does not wait."""
        is_there = bool(self._library.baton_exchange_look(self._at, number, num_ranks))
        self._let_go()
        return is_there

    def wait(self, number: int, num_ranks: int) -> None:
        """Until it has. Raises: RuntimeError: aborted."""
        if self._library.baton_exchange_wait(self._at, number, num_ranks):
            raise RuntimeError(GONE)
        self._let_go()

    def abort(self) -> None:
        """Frees a call that waits."""
        self._abort.value = 1

    def _let_go(self) -> None:
        while len(self._open) > self._ranks.num_begun - self._ranks.num_whole:
            self._open.popleft()


class Part:
    """A gather that this rank has begun: its own part and, when they come, the others'."""

    def __init__(self, exchange: Exchange, number: int, out: Tensor) -> None:
        self._exchange, self._number, self._out = exchange, number, out

    def is_there(self, num_ranks: int) -> bool:
        return self._exchange.is_there(self._number, num_ranks)

    def wait(self, num_ranks: int) -> Tensor:
        """[ranks, ...]: the parts of the first `num_ranks` and this rank's; the others' may be there or not."""
        self._exchange.wait(self._number, num_ranks)
        return self._out
