"""A guess at how a sequence goes on: a path of tokens, or a tree of them."""

from collections.abc import Sequence
from typing import NamedTuple

from workers.model import trees


class Draft(NamedTuple):
    """Attributes:
    token_ids: What may follow a sequence's last token, the next first; empty: no guess.
    kind: Of how sure it is: drafts of one kind are right about equally often. The higher, the surer.
    parents: Of a tree: for each token the place in `token_ids` of the one before it, which comes first; -1: the
        sequence's last token. No token has two equal children. Empty: each follows the one before, a single path.
    kinds: Where they differ: for each token how sure it is if the one before it is right. Empty: as `kind`.
    """

    token_ids: Sequence[int] = ()
    kind: int = 0
    parents: Sequence[int] = ()
    kinds: Sequence[int] = ()

    def first(self, count: int) -> "Draft":
        """The first `count` tokens."""
        return self.of(range(min(count, len(self.token_ids)))) if count else NO_DRAFT

    def of(self, places: Sequence[int]) -> "Draft":
        """The tokens at `places`, in that order; of a tree each after the one before it. A path where it is one."""
        token_ids = [self.token_ids[at] for at in places]
        kinds = [self.kinds[at] for at in places] if self.kinds else ()
        if not self.parents:
            return self._replace(token_ids=token_ids, kinds=kinds)
        new = {-1: -1} | {at: number for number, at in enumerate(places)}
        parents = [new[self.parents[at]] for at in places]
        is_path = all(parent == number - 1 for number, parent in enumerate(parents))
        return self._replace(token_ids=token_ids, parents=() if is_path else parents, kinds=kinds)

    def deep_first(self) -> "Draft":
        """The same tree, each path as far as it goes before the next: where the first is right, nothing has to move."""
        if not self.parents:
            return self
        children: dict[int, list[int]] = {}
        for at, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(at)
        order: list[int] = []
        rest = children.get(-1, [])[::-1]
        while rest:
            order.append(rest.pop())
            rest += children.get(order[-1], [])[::-1]
        return self.of(order)

    def first_path(self) -> "Draft":
        """Of a tree its first token, the first of those that may follow it, and so on: a single path."""
        if not self.parents:
            return self
        places: list[int] = []
        for at, parent in enumerate(self.parents):
            if parent == (places[-1] if places else -1):
                places.append(at)
        return self.of(places)

    @property
    def links(self) -> Sequence[int]:
        """Of each token the place of the one before it, of a path too."""
        return self.parents or range(-1, len(self.token_ids) - 1)

    @property
    def depths(self) -> Sequence[int]:
        """Of each token how far it is from the sequence's last token, >= 1."""
        return trees.depths(self.parents) if self.parents else range(1, len(self.token_ids) + 1)

    def follow(self, written: Sequence[int]) -> list[int]:
        """The places of the tokens that were `written` one after the other."""
        return trees.follow(self.token_ids, self.parents, written)


NO_DRAFT = Draft()
FORCED = -1  # the kind of drafts that are no guesses: a grammar allows nothing else
