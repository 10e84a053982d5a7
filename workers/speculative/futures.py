"""How one sequence may go on, as a draft worker told it: a tree of tokens that follows a text of so many tokens.

The text grows meanwhile. While what is written walks along the tree, what stands below is a guess at what comes next.
Most guesses are replaced by newer ones before anybody looks into them, so nothing is built of one that nobody asks.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from operator import gt

ROOT = 0
MAX_NODES = 1024  # a draft worker's own trees are a tenth of that


class Futures:
    """
    Args:
        base: Tokens of the text that the tree follows.
        token_ids: Of the nodes; among siblings the likeliest first.
        parents: Of each node its parent's place in `token_ids` plus 1, which is at most its own place; 0: the text.
    Raises: ValueError: The two do not make a tree, or one that is too large.
    """

    def __init__(self, base: int, token_ids: Sequence[int], parents: Sequence[int]) -> None:
        if len(token_ids) > MAX_NODES:
            raise ValueError(f"a guess of {len(token_ids)} tokens: at most {MAX_NODES} are taken")
        if len(token_ids) != len(parents) or any(map(gt, parents, range(len(parents)))):
            raise ValueError("a guess is no tree: each node's parent comes before it")
        self.base = base
        self._token_ids, self._parents = token_ids, parents

    def __len__(self) -> int:
        return len(self._token_ids)

    @cached_property
    def _children(self) -> list[list[int]]:
        """Of each node, and of the root first."""
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self._parents, 1):
            children[parent].append(node)
        return children

    def is_deep(self, num_tokens: int) -> bool:
        """Whether the likeliest tokens in a row are so many at least."""
        node, rest = ROOT, list(self._parents)
        for _ in range(num_tokens):
            if node not in rest:
                return False
            node = rest.index(node) + 1
        return True

    def after(self, written: Sequence[int]) -> int | None:
        """The node where the text is now; None: what was written leads out of the tree.

        Args:
            written: What has followed the first `base` tokens.
        """
        node = ROOT
        for token_id in written:
            for child in self._children[node]:
                if self._token_ids[child - 1] == token_id:
                    node = child
                    break
            else:
                return None
        return node

    def path(self, node: int, num_tokens: int) -> list[int]:
        """The likeliest tokens in a row after `node`, at most so many."""
        path: list[int] = []
        while len(path) < num_tokens and self._children[node]:
            node = self._children[node][0]
            path.append(self._token_ids[node - 1])
        return path

    def below(self, node: int, depth: int, width: int) -> tuple[list[int], list[int], list[int]]:
        """The tree after `node`, parents first: token ids, of each its parent's place there (-1: none), and how many
        siblings are likelier. No siblings are equal: the first of such stays.

        Args:
            depth: Tokens in a row, at most.
            width: Siblings, at most.
        """
        token_ids: list[int] = []
        parents: list[int] = []
        ranks: list[int] = []
        level = [(node, -1)]
        for _ in range(depth):
            above, level = level, []
            for parent, place in above:
                by_token: dict[int, int] = {}
                for child in self._children[parent]:
                    by_token.setdefault(self._token_ids[child - 1], child)
                for rank, (token_id, child) in enumerate(islice(by_token.items(), width)):
                    level.append((child, len(token_ids)))
                    token_ids.append(token_id)
                    parents.append(place)
                    ranks.append(rank)
        return token_ids, parents, ranks
