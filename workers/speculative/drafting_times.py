"""What drafting takes, for each token of so many sequences together; learnt while serving."""

from workers.speculative.step_times import size_class

_WEIGHT = 0.2  # of the newest
_OUTLIER = 3.0  # what took so many times what was expected was disturbed, and counts no more than that


class DraftingTimes:
    """Seconds of a pass that drafts one more token for each sequence: a draft of n tokens takes n of them."""

    def __init__(self) -> None:
        self._token_s: dict[int, float] = {}  # by class of sequences

    def learn(self, num_seqs: int, depth: int, took_s: float) -> None:
        """Of a round that drafted up to `depth` >= 1 tokens for each of `num_seqs`, and did nothing else."""
        at, token_s = size_class(num_seqs), took_s / depth
        known_s = self._token_s.get(at)
        if known_s is None or known_s > _OUTLIER * token_s:  # what was known was disturbed
            self._token_s[at] = token_s
        else:
            self._token_s[at] += _WEIGHT * (min(token_s, _OUTLIER * known_s) - known_s)

    def token_s(self, num_seqs: int) -> float | None:
        """As with the nearest number that was seen, the lower of two; None: nothing was."""
        at = size_class(num_seqs)
        nearest = min(self._token_s, key=lambda known: (abs(known - at), known), default=None)
        return None if nearest is None else self._token_s[nearest]
