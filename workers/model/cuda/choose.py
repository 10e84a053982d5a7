"""Finds at start which way to attend is right and fastest on this device, for decodes and for other steps.

Each is held to plain torch for every kind of layer, over the same blocks and steps of every shape, so that its kernels
are compiled before anybody waits for them. Then it is timed as a step uses it: its numbers are brought to the device
once, then all layers attend; decodes from a CUDA graph. One that fails or is wrong is left out, and the log says why.
"""

import logging
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workers.model import attention_torch
from workers.model.attention import PagedAttention, PagedMeta, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.capture import CUDACapture
from workers.model.cuda.graph_sizes import GraphSize
from workers.model.cuda.inputs import Buffers, StepInputs, nbytes_of
from workers.model.cuda.kinds import Kind
from workers.model.cuda.launching import reason_of
from workers.model.cuda.ways import Way

logger = logging.getLogger(__name__)

NUM_RUNS = 5  # the median counts
MAX_ERROR = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # of means of values around 1
MAX_CONTEXT, MAX_DECODES, MAX_CHUNK = 4096, 64, 2048  # of the steps that are timed
SHORT = 7  # new tokens of a chunk, and drafts of a tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model's layers and what they are tried with.

    Args:
        kinds: With random numbers in their blocks; the commonest first, which is timed.
        num_layers: That attend in a step.
        has_graphs: Decodes are replayed.
        is_timed: Else the first that is right is taken: where ranks must agree.
    """

    kinds: Sequence[Kind]
    num_layers: int
    max_sequences: int
    max_chunk: int
    max_model_len: int
    has_graphs: bool = False
    is_timed: bool = True

    @property
    def decodes(self) -> PagedMeta:
        """As many and as long as the blocks allow."""
        batch = max(1, min(self.max_sequences, MAX_DECODES, self._num_tokens // 2))
        context = max(0, min(self.max_model_len - 1, MAX_CONTEXT - 1, self._num_tokens // batch - 1))
        return self._meta([(context, 1)] * batch)

    @property
    def mixed(self) -> PagedMeta:
        """A part of a prompt beside some decodes."""
        whole = self._num_tokens // 2
        chunk = max(1, min(self.max_chunk, MAX_CHUNK, self.max_model_len // 2, whole // 2))
        context = max(0, min(chunk, whole - chunk))
        decodes = max(0, min(self.max_sequences - 1, 8))
        each = min(self.max_model_len - 1, MAX_CONTEXT - 1, whole // max(decodes, 1) - self._block_size)
        return self._meta([(context, chunk), *[(each, 1)] * (decodes if each >= 0 else 0)])

    @property
    def others(self) -> Sequence[PagedMeta]:
        """Small ones that take other kernels: a token, a few, a tree, a tree beside a prompt."""
        few = min(SHORT, self.max_model_len, self._num_tokens)
        many = max(few, min(200, self.max_model_len, self.max_chunk, self._num_tokens // 2))
        tree = tuple(range(-1, few - 2))
        metas = [self._meta([(0, 1)]), self._meta([(0, few)]), self._meta([(0, many)])]
        if few > 1:
            metas += [self._meta([(0, few)], tree), self._meta([(0, few), (0, many)], tree)]
        return metas

    @property
    def _block_size(self) -> int:
        return self.kinds[0].k_cache.shape[1]

    @property
    def _num_tokens(self) -> int:
        return len(self.kinds[0].k_cache) * self._block_size

    def _meta(self, spans: Sequence[tuple[int, int]], tree: Sequence[int] = ()) -> PagedMeta:
        """Of chunks (context, new tokens), over blocks in no order; the first is `tree`."""
        free = list(range(len(self.kinds[0].k_cache)))
        random.Random(0).shuffle(free)
        chunks: list[Chunk] = []
        for context, count in spans:
            end = context + count
            blocks = [free.pop() for _ in range(min(len(free), -(-end // self._block_size)))]
            end = min(end, len(blocks) * self._block_size)
            count = min(count, end)
            if count:
                chunks.append(
                    Chunk(
                        token_ids=[0] * count,
                        start=end - count,
                        block_ids=blocks,
                        num_sequence_tokens=end,
                        parents=tree if not chunks and count == len(tree) + 1 else (),
                    )
                )
        return build_meta(chunks, self._block_size)


class Tried(NamedTuple):
    name: str
    decode_s: float  # of all layers, infinite where it failed
    mixed_s: float
    reason: str = ""  # why it failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    decode: Way
    mixed: Way
    tried: tuple[Tried, ...] = ()

    @property
    def ragged(self) -> Way | None:
        """That serves mixed steps from graphs, which gains more than the fastest way without them."""
        return next((way for way in (self.mixed, self.decode) if way.is_ragged), None)

    @property
    def text(self) -> str:
        """As `triton`, or `flashinfer, triton for decodes`."""
        return self.mixed.name if self.decode is self.mixed else f"{self.mixed.name}, {self.decode.name} for decodes"


def choose(ways: Sequence[Way], case: Case, clock: Callable[[], float] = time.perf_counter) -> Chosen:
    """One alone is taken as it is: there is nothing to compare it with, and torch needs none."""
    if len(ways) == 1:
        return Chosen(decode=ways[0], mixed=ways[0])
    tried = tuple(_try(way, case, clock) for way in ways)
    for one in tried:
        logger.info(
            "attention way=%s decode_ms=%.3f mixed_ms=%.3f%s",
            *(one.name, 1000 * one.decode_s, 1000 * one.mixed_s, f" error={one.reason}" if one.reason else ""),
        )
    if all(one.reason for one in tried):  # not even torch against itself: there may be no memory for it
        return Chosen(decode=ways[-1], mixed=ways[-1], tried=tried)
    decode = min(range(len(ways)), key=lambda at: tried[at].decode_s)
    mixed = min(range(len(ways)), key=lambda at: tried[at].mixed_s)
    return Chosen(decode=ways[decode], mixed=ways[mixed], tried=tried)


def _try(way: Way, case: Case, clock: Callable[[], float]) -> Tried:
    try:
        for kind in case.kinds:
            for meta in (case.decodes, case.mixed, *case.others):
                _check(way.eager(), kind, meta)
        if not case.is_timed:
            return Tried(way.name, 0.0, 0.0)
        decode_s = _seconds(_decode(way, case), case, clock)
        mixed_s = _seconds(_steps(way.eager(), case, case.mixed), case, clock)
    except Exception as error:  # of any library or compiler: the next way is there for it
        reason = reason_of(error)
        logger.warning("a way to attend is left out way=%s error=%s", way.name, reason)
        return Tried(way.name, float("inf"), float("inf"), reason)
    return Tried(way.name, decode_s, mixed_s)


def _query(kind: Kind, meta: PagedMeta) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(meta.num_tokens, kind.num_heads, kind.k_cache.shape[-1], generator=generator)
    return query.to(kind.k_cache.device, kind.dtype)


def _check(attention: PagedAttention, kind: Kind, meta: PagedMeta) -> None:
    """Raises: ArithmeticError: it is wrong."""
    query = _query(kind, meta)
    found = attention(query, kind.k_cache, kind.v_cache, meta, kind.scoring, kind.scales)
    want = attention_torch.paged_attention(query, kind.k_cache, kind.v_cache, meta, kind.scoring, kind.scales)
    error = float((found.float() - want.float()).abs().max())
    if not error <= MAX_ERROR.get(query.dtype, MAX_ERROR[torch.bfloat16]):  # NaN too
        raise ArithmeticError(f"it is off by {error:.1e}")


def _steps(attention: PagedAttention, case: Case, meta: PagedMeta) -> Callable[[], None]:
    """One step after the other, all layers of the commonest kind."""
    kind = case.kinds[0]
    query = _query(kind, meta)

    def step() -> None:
        again = _again(meta)
        for _ in range(case.num_layers):
            attention(query, kind.k_cache, kind.v_cache, again, kind.scoring, kind.scales)

    return step


def _decode(way: Way, case: Case) -> Callable[[], None]:
    """The same of decodes, as they will be run."""
    kind, meta = case.kinds[0], case.decodes
    device = kind.k_cache.device
    if not case.has_graphs:
        return _steps(way.eager(), case, meta)
    query = _query(kind, meta)
    inputs = _inputs(way, meta, device)
    token_ids = [0] * meta.num_chunks
    inputs.fill(token_ids, meta)
    fixed = way.fixed(inputs)
    fixed.renew(meta)

    def compute() -> None:
        attention = fixed.attention(meta)
        for _ in range(case.num_layers):
            attention(query, kind.k_cache, kind.v_cache, meta, kind.scoring, kind.scales)

    launch = CUDACapture(device)(compute)

    def replay() -> None:
        inputs.fill(token_ids, meta)
        fixed.renew(meta)
        launch()

    return replay


def _inputs(way: Way, meta: PagedMeta, device: torch.device) -> StepInputs:
    number, width = meta.block_tables.shape
    size = GraphSize(number, number, number, number * width, None if way.is_ragged else width)
    return StepInputs(size, Buffers(nbytes_of(size, 0), device))


def _seconds(step: Callable[[], None], case: Case, clock: Callable[[], float]) -> float:
    device = case.kinds[0].k_cache.device
    times_s = []
    for _ in range(NUM_RUNS):
        _wait(device)
        began_s = clock()
        step()
        _wait(device)
        times_s.append(clock() - began_s)
    return statistics.median(times_s)


def _again(meta: PagedMeta) -> PagedMeta:
    """The same batch as another step: what ways keep of a step is made anew."""
    chunks = [
        Chunk(token_ids=[0] * (end - begin), start=context, block_ids=blocks, num_sequence_tokens=context + end - begin)
        for begin, end, context, blocks in zip(
            meta.query_starts[:-1], meta.query_starts[1:], meta.num_contexts, meta.block_ids, strict=True
        )
    ]
    return build_meta(chunks, meta.block_size)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
