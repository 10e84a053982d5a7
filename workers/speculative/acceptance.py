"""How often draft tokens proved right, by class of guess and place in the draft."""

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
        for outcomes, right in self._places(kind):
            so_far *= (right + _PRIOR * _PRIOR_WEIGHT) / (outcomes + _PRIOR_WEIGHT)
            chances.append(so_far)
        return chances

    def learn(self, kind: int, num_drafts: int, num_accepted: int) -> None:
        """Of places after the first wrong token nothing is known."""
        for place in self._places(kind)[: min(num_accepted + 1, num_drafts)]:
            place[0] = place[0] * _MEMORY + 1
            place[1] *= _MEMORY
        for place in self._places(kind)[:num_accepted]:
            place[1] += 1

    def _places(self, kind: int) -> list[list[float]]:
        return self._seen.setdefault(kind, [[0.0, 0.0] for _ in range(self._max_tokens)])
