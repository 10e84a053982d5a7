"""What steps take by how many sequences decode in them and how many draft tokens they verify, learnt while serving."""

import itertools

_EXACT = 4  # counts up to here have a class of their own; above, four classes for each doubling
_WEIGHT = 0.2  # of the newest step
_OUTLIER = 3.0  # a step that took so many times what was expected was disturbed, and counts no more than that
_FADING = 0.001  # of what drafts cost, with each step of other counts: what once was dear is tried again


class StepTimes:
    """Seconds of steps that only decode."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, float]] = {}  # by class of decodes, then by class of drafts

    def learn(self, num_decodes: int, num_drafts: int, took_s: float) -> None:
        row = self._rows.setdefault(size_class(num_decodes), {})
        at = size_class(num_drafts)
        known_s = row.get(at)
        if known_s is None or known_s > _OUTLIER * took_s:  # what was known was disturbed
            row[at] = took_s
        else:
            row[at] += _WEIGHT * (min(took_s, _OUTLIER * known_s) - known_s)
        self._fade(row, at)

    def _fade(self, row: dict[int, float], kept: int) -> None:
        """Towards a step without drafts: nobody would ever learn that a count which was too dear is no longer."""
        plain_s = row.get(0)
        if plain_s is not None:
            for at in row.keys() - {0, kept}:
                row[at] += _FADING * (plain_s - row[at])

    def knows(self, num_decodes: int) -> bool:
        """Whether a step without drafts was seen, which all others are compared with."""
        return 0 in self._rows.get(size_class(num_decodes), ())

    def most_drafts(self, num_decodes: int) -> int:
        """Of the steps that were seen."""
        return smallest_of(max(self._rows[size_class(num_decodes)]))

    def expected_s(self, num_decodes: int, most: int) -> list[float]:
        """Of steps with 0 to `most` draft tokens: between what was seen on a line; beyond it as steep as its last part,
        and flat, so worth a try, if there is none. Never less than with fewer drafts. `knows` must hold.
        """
        row = sorted(self._rows[size_class(num_decodes)].items())
        highest = itertools.accumulate((took_s for _, took_s in row), max)
        points = [(smallest_of(at), took_s) for (at, _), took_s in zip(row, highest, strict=True)]
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
