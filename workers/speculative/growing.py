"""A tree of drafts while it grows."""

from collections.abc import Sequence

from workers.engine.draft import Draft

ROOT = -1
MOST_SEQS = 8  # in a step; with more of them drafts are single paths: each is drafted little for, and to look costs


class GrowingTree:
    """Args:
    width: Tokens after each, at most.
    max_tokens: In all.
    """

    def __init__(self, width: int, max_tokens: int) -> None:
        self.token_ids: list[int] = []
        self._width, self._max_tokens = width, max_tokens
        self._parents: list[int] = []
        self._kinds: list[int] = []
        self._children: dict[int, dict[int, int]] = {}  # of each place: token -> its place

    @property
    def is_full(self) -> bool:
        return len(self.token_ids) >= self._max_tokens

    def add(self, parent: int, token_id: int, kind: int) -> int | None:
        """The place of `token_id` after the one at `parent` (or `ROOT`), which may be there; None: there is no room."""
        children = self._children.setdefault(parent, {})
        at = children.get(token_id)
        if at is None and len(children) < self._width and not self.is_full:
            at = children[token_id] = len(self.token_ids)
            self.token_ids.append(token_id)
            self._parents.append(parent)
            self._kinds.append(kind)
        return at

    def add_path(self, token_ids: Sequence[int], kind: int, branch_kind: int) -> list[int]:
        """From the root; the first that was not there is of `branch_kind` if another was.

        Returns: the places, as far as there was room.
        """
        path: list[int] = []
        at = ROOT
        for token_id in token_ids:
            others = self._children.get(at)
            found = self.add(at, token_id, branch_kind if others else kind)
            if found is None:
                break
            path.append(at := found)
        return path

    def draft(self) -> Draft:
        """Of the kind of its first token."""
        kind = self._kinds[0] if self._kinds else 0
        return Draft(self.token_ids, kind, self._parents, self._kinds).of(range(len(self.token_ids)))
