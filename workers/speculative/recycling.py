"""Token Recycling (arXiv 2408.08696): what the model last found likely after a token is likely again.

Each step tells, for every token that something was sampled after, the tokens that were likeliest to follow. A matrix
keeps the latest of them for each token of the vocabulary, and trees are grown from it. Where prompt or answer have the
same words already, what followed there comes first (`workers.speculative.ngram`), and recycled tokens branch off it.
"""

import heapq
from collections.abc import Sequence as List
from typing import Any

import numpy as np

from workers.engine.draft import Draft
from workers.engine.drafting import Drafter
from workers.engine.sequence import Sequence
from workers.model.trees import MAX_TOKENS
from workers.speculative.growing import ROOT, GrowingTree

NUM_SUCCESSORS = 8  # remembered of each token: with 4 bytes each, 1.6 MB for 49,152
MAX_BYTES = 8 << 20  # tokens with an id beyond it are not remembered
MOST_AT_ONCE = 256  # tokens proposed in a step, over all sequences: what the step waits for grows with them
_NONE = -1  # no successor is known


class Successors:
    """The matrix. Implements `workers.model.contract.Watch`."""

    def __init__(self, vocab_size: int) -> None:
        self.num_successors = min(NUM_SUCCESSORS, vocab_size)
        num_rows = min(vocab_size, MAX_BYTES // (4 * self.num_successors))
        self._table = np.full((num_rows, self.num_successors), _NONE, dtype=np.int32)

    @property
    def nbytes(self) -> int:
        return self._table.nbytes

    def saw(self, token_ids: List[int], successors: Any) -> None:
        """See `Watch`."""
        tokens = np.asarray(token_ids)
        known = tokens < len(self._table)
        self._table[tokens[known]] = successors[known]

    def of(self, token_id: int) -> list[int]:
        """Likeliest first; nothing of a token that was not seen yet."""
        if token_id >= len(self._table) or self._table[token_id, 0] == _NONE:
            return []
        found: list[int] = self._table[token_id].tolist()
        return found


class RecyclingDrafter:
    """See `workers.engine.drafting.Drafter`.

    Args:
        copies: Proposes what comes first in each tree.
        width: Tokens after each, at most.
        first_kind: Kinds of recycled tokens are from here on, one for each rank; those of `copies` are below.
    """

    def __init__(self, copies: Drafter, successors: Successors, *, width: int, first_kind: int) -> None:
        self._copies, self._successors = copies, successors
        self._width, self._first_kind = width, first_kind

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        if not seqs:
            return []
        most = min(self._width * depth, MAX_TOKENS, max(MOST_AT_ONCE // len(seqs), depth))
        copied = self._copies.propose(seqs, depth)
        return [self._grown(seq, draft, depth, most) for seq, draft in zip(seqs, copied, strict=True)]

    def _grown(self, seq: Sequence, copied: Draft, depth: int, most: int) -> Draft:
        tree = GrowingTree(self._width, most)
        halvings = [0]  # of the chances of the root and each place: each rank is taken for half as likely as the last
        depths = [0]
        heap: list[tuple[int, int, int]] = []  # (halvings, place, rank) of what may be added next
        kinds = copied.kinds or [copied.kind] * len(copied.token_ids)
        for token_id, parent, kind in zip(copied.token_ids, copied.links, kinds, strict=True):
            if tree.add(parent, token_id, kind) is None:
                return tree.draft()
            halvings.append(halvings[parent + 1] + 1)
            depths.append(depths[parent + 1] + 1)
        heap = [(halvings[at + 1] + 1, at, 0) for at in range(ROOT, len(tree.token_ids)) if depths[at + 1] < depth]
        heapq.heapify(heap)
        last = seq.output_token_ids[-1]
        while heap and not tree.is_full:
            chance, at, rank = heapq.heappop(heap)
            successors = self._successors.of(last if at == ROOT else tree.token_ids[at])
            if rank >= min(len(successors), self._width):
                continue
            place = tree.add(at, successors[rank], self._first_kind + rank)
            heapq.heappush(heap, (chance + 1, at, rank + 1))
            if place == len(depths) - 1:  # it was not there
                halvings.append(chance)
                depths.append(depths[at + 1] + 1)
                if depths[-1] < depth:
                    heapq.heappush(heap, (chance + 1, place, 0))
        return tree.draft()
