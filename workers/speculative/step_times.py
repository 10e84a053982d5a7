"""What steps take by how many sequences decode in them and how many draft tokens they verify, learnt while serving.

What the machine and the length of texts do to steps they do to all alike. So a step with drafts is known as so many
times one without: these factors hardly move, and the noise of single steps is averaged out of them. Else the best of
several noisy figures would mostly be one that is too good to be true.
"""

import itertools

_EXACT = 4  # counts up to here have a class of their own; above, four classes for each doubling
_FIRST_PLAIN = 2  # steps without drafts, of which the quicker counts: what disturbs makes slower
_WEIGHT = 0.2  # of the newest step without drafts
_SLOW = 1.5  # times what was expected: of a step without drafts more counts no more
_DRIFT = 0.03  # of the newest step with well known ones, in what one without would take
_LEAST_WEIGHT = 0.05  # of the newest step in a factor; that of the n-th is 1/n until then
_WELL_KNOWN = 0.1  # factors in which the newest has less weight
_OUTLIER = 3.0  # a step that took so many times what was expected was disturbed, and counts no more than that
_FADING = 0.01  # of what drafts cost, by the weight of the newest, with each step of other counts: what once was dear
# is tried again, the sooner the less is known of it


class _Row:
    """Of one class of decodes."""

    def __init__(self) -> None:
        self.plain_s = 0.0  # of a step without drafts; until there was one, of the first
        self.num_plain = 0  # steps without drafts
        self.factors: dict[int, float] = {0: 1.0}  # by class of drafts: how many times that
        self._weights: dict[int, float] = {}  # of the next step in each factor

    def learn(self, at: int, took_s: float) -> None:
        if at:
            self.plain_s = self.plain_s or took_s
            self._learn_drafted(at, took_s / self.plain_s if self.plain_s else 1.0)
        else:
            self._learn_plain(took_s)
        self._fade(at)

    def _learn_plain(self, took_s: float) -> None:
        self.num_plain += 1
        known_s = self.plain_s
        if self.num_plain == 1 or (self.num_plain == _FIRST_PLAIN and took_s < known_s) or known_s > _OUTLIER * took_s:
            self._set_plain(took_s)  # nothing was known, or what was known was disturbed
        elif self.num_plain > _FIRST_PLAIN:
            self.plain_s += _WEIGHT * (min(took_s, _SLOW * known_s) - known_s)

    def _set_plain(self, took_s: float) -> None:
        """What steps with drafts took stays."""
        scale = self.plain_s / took_s if self.plain_s and took_s else 1.0
        self.factors = {at: factor * scale if at else 1.0 for at, factor in self.factors.items()}
        self.plain_s = took_s

    def _learn_drafted(self, at: int, factor: float) -> None:
        known, weight = self.factors.get(at), self._weights.get(at, 1.0)
        if not known or known > _OUTLIER * factor:  # nothing was known, or what was known was disturbed
            self.factors[at], weight = factor, 1.0
        else:
            surprise = min(factor / known, _OUTLIER) - 1
            self.factors[at] *= 1 + weight * surprise
            if weight < _WELL_KNOWN:
                self.plain_s *= 1 + _DRIFT * surprise
        self._weights[at] = max(weight / (1 + weight), _LEAST_WEIGHT)

    def _fade(self, kept: int) -> None:
        """Towards a step without drafts: nobody would ever learn that a count which was too dear is no longer."""
        if self.num_plain:
            for at in self._weights.keys() - {kept}:
                self.factors[at] += _FADING * self._weights[at] * (1 - self.factors[at])


class StepTimes:
    """Seconds of steps that only decode."""

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}  # by class of decodes

    def learn(self, num_decodes: int, num_drafts: int, took_s: float) -> None:
        self._rows.setdefault(size_class(num_decodes), _Row()).learn(size_class(num_drafts), took_s)

    def knows(self, num_decodes: int) -> bool:
        """Whether steps without drafts were seen, which all others are compared with."""
        row = self._rows.get(size_class(num_decodes))
        return row is not None and row.num_plain >= _FIRST_PLAIN

    def most_drafts(self, num_decodes: int) -> int:
        """Of the steps that were seen."""
        return smallest_of(max(self._rows[size_class(num_decodes)].factors))

    def plain_s(self, num_decodes: int) -> float:
        """Of a step without drafts. `knows` must hold."""
        return self._rows[size_class(num_decodes)].plain_s

    def expected_s(self, num_decodes: int, most: int) -> list[float]:
        """Of steps with 0 to `most` draft tokens: between what was seen on a line; beyond it as steep as its last part,
        and flat, so worth a try, if there is none. Never less than with fewer drafts. `knows` must hold.
        """
        row = self._rows[size_class(num_decodes)]
        seen = sorted(row.factors.items())
        highest = itertools.accumulate((factor * row.plain_s for _, factor in seen), max)
        points = [(smallest_of(at), took_s) for (at, _), took_s in zip(seen, highest, strict=True)]
        expected: list[float] = []
        slope = 0.0
        for (count, took_s), (end, end_s) in itertools.pairwise(points):
            slope = (end_s - took_s) / (end - count)
            expected += [took_s + slope * ahead for ahead in range(end - count)]
        last_count, last_s = points[-1]
        expected += [last_s + slope * ahead for ahead in range(most + 1 - last_count)]
        return expected[: most + 1]


def size_class(count: int) -> int:
    """0, 1, 2, 3, 4, then 5, 6, 7, 8-9, 10-11, ...: four classes for each doubling."""
    if count <= _EXACT:
        return count
    doublings = count.bit_length() - _EXACT.bit_length()
    return _EXACT + _EXACT * doublings + ((count >> doublings) - _EXACT)


def smallest_of(size: int) -> int:
    """The smallest count of a class."""
    if size <= _EXACT:
        return size
    doublings, quarter = divmod(size - _EXACT, _EXACT)
    return (_EXACT + quarter) << doublings
