"""Token Recycling (arXiv 2408.08696): what the model last found likely after a token is likely again.

Each step tells, for every token that something was sampled after, the tokens that were likeliest to follow. A matrix
keeps the latest of them for each token of the vocabulary, and trees are grown from it. Where prompt or answer have the
same words already, what followed there comes first (`workers.speculative.ngram`), and recycled tokens branch off it.
"""

import heapq
from collections.abc import Callable
from collections.abc import Sequence as List
from typing import Any, NamedTuple

import numpy as np

from workers.engine.draft import Draft
from workers.engine.drafting import Drafter
from workers.engine.sequence import Sequence
from workers.model.trees import MAX_TOKENS
from workers.speculative.growing import ROOT, GrowingTree

NUM_SUCCESSORS = 8  # remembered of each token: with 4 bytes each, 1.6 MB for 49,152
MAX_BYTES = 8 << 20  # tokens with an id beyond it are not remembered
MOST_AT_ONCE = 128  # tokens proposed in a step, over all sequences: each costs 5 us, which the step waits for
FIRST_KIND = 100  # of the likeliest token after another; each rank has one, beside those of other drafters
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
        of_use: Of how many tokens, over that many sequences, some may be verified in a step; None: of any number.
        most_seqs: With more of them nothing branches off; None: with any number.
    """

    def __init__(
        self,
        copies: Drafter,
        successors: Successors,
        *,
        width: int,
        of_use: Callable[[int], int] | None = None,
        most_seqs: int | None = None,
    ) -> None:
        self.copies, self.successors = copies, successors
        self._width = width
        self._of_use = of_use
        self._most_seqs = most_seqs

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        copied = self.copies.propose(seqs, depth)
        if self._most_seqs is not None and len(seqs) > self._most_seqs:
            return copied
        most = self._most(len(seqs), depth) if seqs else 0
        return [self._grown(seq, draft, depth, most) for seq, draft in zip(seqs, copied, strict=True)]

    def _most(self, num_seqs: int, depth: int) -> int:
        """Tokens of each tree. Not all sequences are alike, so each may have more than its part of what is of use."""
        at_once = MOST_AT_ONCE if self._of_use is None else min(2 * self._of_use(num_seqs), MOST_AT_ONCE)
        return min(self._width * depth, MAX_TOKENS, -(-at_once // num_seqs))

    def _grown(self, seq: Sequence, copied: Draft, depth: int, most: int) -> Draft:
        """`copied` goes in whole, whatever its size."""
        tree = GrowingTree(self._width, max(most, len(copied.token_ids)))
        nodes = [Node(0, 0, self._likely(seq.output_token_ids[-1]))]  # the root, then those of the tree
        kinds = copied.kinds or [copied.kind] * len(copied.token_ids)
        for token_id, parent, kind in zip(copied.token_ids, copied.links, kinds, strict=True):
            tree.add(parent, token_id, kind)
            nodes.append(nodes[parent + 1].child(0, self._likely(token_id)))
        heap = [(node.halvings + 1, at, 0) for at, node in enumerate(nodes, start=ROOT) if node.depth < depth]
        heapq.heapify(heap)
        while heap and not tree.is_full:
            halvings, at, rank = heapq.heappop(heap)  # the likeliest of what may be added
            node = nodes[at + 1]
            if rank >= len(node.successors):
                continue
            heapq.heappush(heap, (halvings + 1, at, rank + 1))
            token_id = node.successors[rank]
            place = tree.add(at, token_id, FIRST_KIND + rank)
            if place == len(nodes) - 1:  # it was not there
                nodes.append(node.child(rank, self._likely(token_id)))
                if node.depth + 1 < depth:
                    heapq.heappush(heap, (halvings + 1, place, 0))
        return tree.draft()

    def _likely(self, token_id: int) -> list[int]:
        return self.successors.of(token_id)[: self._width]


class Node(NamedTuple):
    """Attributes:
    halvings: Of its chance: each rank is taken for half as likely as the one before.
    depth: Steps from the root.
    successors: Likeliest first.
    """

    halvings: int
    depth: int
    successors: List[int]

    def child(self, rank: int, successors: List[int]) -> "Node":
        return Node(self.halvings + rank + 1, self.depth + 1, successors)
