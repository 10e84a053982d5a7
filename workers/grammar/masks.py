"""The masks of one step: which tokens may follow where its rows are, drafts included.

A thread makes them while the model computes the step. It alone touches the followers' matchers until they are there;
whoever asks for masks waits. A grammar that fails costs its own answer: its masks allow everything, and the follower
says so when what was sampled is looked at.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import llguidance
import numpy as np
from numpy.typing import NDArray

from workers.grammar.follower import GrammarFollower
from workers.model.contract import SampleRow
from workers.model.trees import depths

logger = logging.getLogger(__name__)
Bits = NDArray[np.uint32]  # [rows, words]: token i is bit i % 32 of word i // 32


class Masked(NamedTuple):
    """A row that follows a grammar, and the place of its first mask; those after its drafts come next."""

    row: SampleRow
    follower: GrammarFollower
    place: int


class StepMasks:
    """Implements `workers.model.contract.TokenMasks`.

    Args:
        rows: All of the step.
        followers: Of each row; None: it follows no grammar.
        num_tokens: That the followers' vocabulary has.
        vocab_size: Of the model.
        thread: Makes them.
        llguidance_threads: With which it does.
        unpacks: `forbidden` is what will be asked for.
    """

    def __init__(
        self,
        rows: Sequence[SampleRow],
        followers: Sequence[GrammarFollower | None],
        *,
        num_tokens: int,
        vocab_size: int,
        thread: Executor,
        llguidance_threads: llguidance.LLExecutor,
        unpacks: bool,
    ) -> None:
        self.rows: list[int] = []
        self._masked: list[Masked] = []
        at = 0
        for row, follower in zip(rows, followers, strict=True):
            num_places = 1 + len(row.draft_token_ids)
            if follower is not None:
                self._masked.append(Masked(row, follower, len(self.rows)))
                self.rows += range(at, at + num_places)
            at += num_places
        self._num_words, self._vocab_size = -(-num_tokens // 32), vocab_size
        self._executor = llguidance_threads
        self._made = thread.submit(self._make, unpacks)

    def bits(self) -> NDArray[np.int32]:
        return self._made.result()[0].view(np.int32)

    def forbidden(self) -> NDArray[np.bool_]:
        bits, forbidden = self._made.result()
        return self._unpacked(bits) if forbidden is None else forbidden

    def _unpacked(self, bits: Bits) -> NDArray[np.bool_]:
        octets = np.bitwise_not(bits).view(np.uint8)  # a little-endian machine's, as all are that torch runs on
        return np.unpackbits(octets, axis=1, count=self._vocab_size, bitorder="little").view(np.bool_)

    def _make(self, unpacks: bool) -> tuple[Bits, NDArray[np.bool_] | None]:
        bits = np.full((len(self.rows), self._num_words), 0xFFFFFFFF, dtype=np.uint32)
        try:
            self._fill(bits)
        except BaseException as error:  # whatever the library does: the answers of this step that use it end
            logger.exception("masks failed rows=%d", len(self.rows))
            for masked in self._masked:
                masked.follower.fail(error)
        return bits, self._unpacked(bits) if unpacks else None

    def _fill(self, bits: Bits) -> None:
        first: dict[int, Masked] = {}  # by follower: choices that are still one sequence have one
        for masked in self._masked:
            masked.follower.sync(masked.row.output_token_ids)
            if not masked.follower.has_failed:
                first.setdefault(id(masked.follower), masked)
        self._fill_paths(bits, [one for one in first.values() if not one.row.parents])
        for masked in first.values():
            if masked.row.parents:
                _fill_tree(bits, masked)
            if masked.follower.matcher.is_error():
                masked.follower.fail("no masks")
        for masked in self._masked:
            one = first.get(id(masked.follower))
            if one is not None and one is not masked:
                bits[masked.place] = bits[one.place]
            if one is not None and not masked.follower.has_failed:
                _decide_ends(bits, masked)
        bits[~bits.any(axis=1)] = 0xFFFFFFFF  # nothing goes on from there: what is sampled is refused by the follower

    def _fill_paths(self, bits: Bits, masked: Sequence[Masked]) -> None:
        """In two calls, during which other threads run."""
        alone = [(one.follower.matcher, one.place) for one in masked if not one.row.draft_token_ids]
        drafted = [
            (one.follower.matcher, one.place, list(one.row.draft_token_ids))
            for one in masked
            if one.row.draft_token_ids
        ]
        where = (bits.ctypes.data, self._num_words * 4, len(bits))
        if alone:
            self._executor.unsafe_compute_mask_ptr(alone, *where)
        if drafted:
            self._executor.unsafe_compute_mask_ptr_with_draft_token(drafted, *where)


def _fill_tree(bits: Bits, masked: Masked) -> None:
    follower, row = masked.follower, masked.row
    for place in follower.walk(row.draft_token_ids, row.parents):
        mask = bits[masked.place + 1 + place]
        follower.matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)


def _decide_ends(bits: Bits, masked: Masked) -> None:
    """Where the answer may end, by what the request says of that.

    The grammar allows the model's ends of text where it may end. There the request's stop tokens are allowed too. None
    of them is before `min_tokens`, and no end of text under `ignore_eos`, unless nothing else is left.
    """
    row, eos = masked.row, masked.follower.eos_token_ids
    params = row.params
    if not (params.ignore_eos or params.stop_token_ids or len(row.output_token_ids) < params.min_tokens):
        return
    stops = params.stop_token_ids
    levels = (0, *(depths(row.parents) if row.parents else range(1, len(row.draft_token_ids) + 1)))
    for place, depth in enumerate(levels, start=masked.place):
        mask = bits[place]
        may_end = any(_has(mask, token) for token in eos)
        if len(row.output_token_ids) + depth < params.min_tokens:
            _forbid(mask, eos | stops)
            continue
        if params.ignore_eos:
            _forbid(mask, eos)
        if may_end:
            _allow(mask, stops)


def _has(mask: Any, token_id: int) -> bool:
    return bool(mask[token_id >> 5] >> np.uint32(token_id & 31) & 1)


def _forbid(mask: Any, token_ids: Iterable[int]) -> None:
    """Unless nothing would be left."""
    before = mask.copy()
    for token_id in token_ids:
        mask[token_id >> 5] &= ~np.uint32(1 << (token_id & 31))
    if not mask.any():
        mask[:] = before


def _allow(mask: Any, token_ids: Iterable[int]) -> None:
    for token_id in token_ids:
        mask[token_id >> 5] |= np.uint32(1 << (token_id & 31))
