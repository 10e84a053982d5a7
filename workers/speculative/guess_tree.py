"""What a draft worker thinks may follow one text: a tree of tokens, each with the chance that the text goes through it.

The children of a node are what the draft model said after it: the token that it would write, then the runners-up. How
often the text went on with the first, the second, ... of them is what their chances are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

SMOOTHING = 0.05  # weight of the newest outcome
FIRST_CHANCES = (0.6, 0.12, 0.05)  # until outcomes were seen


@dataclass(slots=True, eq=False)
class Node:
    """Attributes:
    end: Tokens of the text up to here, this one included.
    chance: That the text goes through here; comparable within one tree.
    is_open: The model may be asked what follows.
    place: In the list of its tree, plus 1; 0: the root.
    """

    token_id: int
    end: int
    chance: float = 1.0
    parent: Optional["Node"] = None
    children: list["Node"] = field(default_factory=list)
    is_open: bool = True
    place: int = 0

    def child(self, token_id: int) -> Optional["Node"]:
        return next((child for child in self.children if child.token_id == token_id), None)

    def above(self) -> Iterator["Node"]:
        """This one, its parent, and so on up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator["Node"]:
        """All nodes under this one, each after its parent, siblings likeliest first."""
        level = self.children
        while level:
            yield from level
            level = [child for node in level for child in node.children]


class Chances:
    """That a text goes on with the draft's first token, its second, ..."""

    def __init__(self, first: Sequence[float] = FIRST_CHANCES) -> None:
        self.of_rank = list(first)

    def learn(self, node: Node, token_id: int) -> None:
        """The text went on with `token_id` after `node`, whose children are known."""
        for rank in range(len(self.of_rank)):
            is_it = rank < len(node.children) and node.children[rank].token_id == token_id
            self.of_rank[rank] += (is_it - self.of_rank[rank]) * SMOOTHING

    def expand(self, node: Node, token_ids: Sequence[int]) -> None:
        """The model said what may follow `node`, the likeliest first."""
        assert not node.children, "the model was asked twice"
        node.is_open = False
        for rank, token_id in enumerate(token_ids[: len(self.of_rank)]):
            chance = node.chance * self.of_rank[rank]
            node.children.append(Node(token_id, node.end + 1, chance, node))


def listed(root: Node) -> tuple[list[int], list[int]]:
    """Token ids of the nodes under `root`, and of each its parent's place plus 1; 0: the root. Sets their places."""
    token_ids: list[int] = []
    parents: list[int] = []
    root.place = 0
    for node in (root, *root.below()):
        list_children(node, token_ids, parents)
    return token_ids, parents


def list_children(node: Node, token_ids: list[int], parents: list[int]) -> None:
    """Those of a node that is listed, after all others."""
    for child in node.children:
        token_ids.append(child.token_id)
        parents.append(node.place)
        child.place = len(token_ids)
