"""How often draft tokens proved right, by class of guess and place in the draft."""

from collections.abc import Sequence

from workers.engine.draft import Draft

_MEMORY = 0.98  # of what was learnt, with each new outcome at the same place
_PRIOR, _PRIOR_WEIGHT = 0.5, 4.0  # of a place that was hardly ever drafted: worth trying


class Acceptance:
    """Chances that a draft token is right if those before it are; a moving average of what was seen."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._seen: dict[int, list[list[float]]] = {}  # by class, of each place: outcomes and right ones, both fading

    def chances(self, kind: int) -> list[float]:
        """For each place of a draft that its token and all before it are right."""
        chances: list[float] = []
        so_far = 1.0
        for place in self._places(kind):
            so_far *= _chance(place)
            chances.append(so_far)
        return chances

    def of(self, draft: Draft) -> list[float]:
        """For each token of `draft` that it and those before it are right."""
        if not (draft.parents or draft.kinds):
            return self.chances(draft.kind)[: len(draft.token_ids)]
        chances: list[float] = []
        for place, parent, depth in zip(self._of_tree(draft), draft.links, draft.depths, strict=True):
            before = chances[parent] if parent >= 0 else 1.0
            chances.append(before * _chance(place) if depth <= self._max_tokens else 0.0)
        return chances

    def likeliest_first(self, draft: Draft) -> Draft:
        """A tree's tokens in falling order of their chances, each after the one before it."""
        chances = self.of(draft)
        return draft.of(sorted(range(len(chances)), key=lambda at: (-chances[at], at)))

    def learn(self, kind: int, num_drafts: int, num_accepted: int) -> None:
        """Of a path. Of places after the first wrong token nothing is known."""
        for index, place in enumerate(self._places(kind)[: min(num_accepted + 1, num_drafts)]):
            _count(place, index < num_accepted)

    def learn_tree(self, draft: Draft, right: Sequence[int]) -> None:
        """Of the tokens after a right one.

        Args:
            right: Places in `draft` of the tokens that were.
        """
        known = {-1, *right}
        for at, (place, parent) in enumerate(zip(self._of_tree(draft), draft.links, strict=True)):
            if parent in known:
                _count(place, at in known)

    def _of_tree(self, draft: Draft) -> list[list[float]]:
        kinds = draft.kinds or [draft.kind] * len(draft.token_ids)
        last = self._max_tokens - 1
        return [self._places(kind)[min(depth - 1, last)] for kind, depth in zip(kinds, draft.depths, strict=True)]

    def _places(self, kind: int) -> list[list[float]]:
        if kind not in self._seen:
            self._seen[kind] = [[0.0, 0.0] for _ in range(self._max_tokens)]
        return self._seen[kind]


def _chance(place: Sequence[float]) -> float:
    outcomes, right = place
    return (right + _PRIOR * _PRIOR_WEIGHT) / (outcomes + _PRIOR_WEIGHT)


def _count(place: list[float], is_right: bool) -> None:
    place[0] = place[0] * _MEMORY + 1
    place[1] = place[1] * _MEMORY + is_right
