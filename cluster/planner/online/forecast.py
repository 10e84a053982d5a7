"""How many requests come next: level and damped trend of the window's bins, and yesterday's shape once there is one.

A steady load is forecast as it is, an empty one as none. No mean stands for lengths: see `sampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MIN_BINS, MAX_BINS = 4, 12
LEVEL, TREND, DAMPING = 0.5, 0.2, 0.8  # Holt's weights of the newest bin, and what is left of the trend a bin later
MAX_RISE = 2.0  # forecast / the window's mean, and its reverse; or as much as the newest bins have
NEWEST = 3  # bins
DAY_S, SLOTS = 86400.0, 96  # seasons are kept in quarters of an hour


def holt(counts: Sequence[float], ahead: float) -> float:
    """The mean of the next `ahead` bins after `counts`, one value a bin, at least one; never below 0.

    Holt's linear trend, damped (Gardner and McKenzie, 1985): a trend that was seen does not go on for ever.
    """
    level, trend = counts[0], 0.0
    for count in counts[1:]:
        before = level
        level = LEVEL * count + (1 - LEVEL) * (level + DAMPING * trend)
        trend = TREND * (level - before) + (1 - TREND) * DAMPING * trend
    steps = max(round(ahead), 1)
    sums = [trend * DAMPING * (1 - DAMPING**step) / (1 - DAMPING) for step in range(1, steps + 1)]
    return max(level + sum(sums) / steps, 0.0)


@dataclass(slots=True)
class Season:
    """Rates by time of day, as of the last day on which each was seen."""

    day_s: float = DAY_S
    _slots: dict[int, float] = field(default_factory=dict)
    _days: dict[int, int] = field(default_factory=dict)  # by slot: on which day it was seen last

    def note(self, now_s: float, rate: float) -> None:
        day, slot = self._place(now_s)
        if self._days.get(slot) != day:
            self._slots[slot] = rate
        else:
            self._slots[slot] += (rate - self._slots[slot]) / 2
        self._days[slot] = day

    def rise(self, now_s: float, ahead_s: float) -> float | None:
        """How the load of a day before went on from this time of day; None where that was not seen."""
        (day, here), (_, there) = self._place(now_s), self._place(now_s + ahead_s)
        if here == there or self._days.get(there, day) == day or not self._slots.get(here):
            return None
        return self._slots[there] / self._slots[here]

    def _place(self, at_s: float) -> tuple[int, int]:
        day, within_s = divmod(at_s, self.day_s)
        return int(day), int(within_s * SLOTS / self.day_s)


@dataclass(slots=True)
class Forecaster:
    """Args:
    window_s: Of arrivals that are looked at.
    bin_s: About how long one bin of them is.
    """

    window_s: float
    bin_s: float
    season: Season = field(default_factory=Season)

    def rate(self, arrived_s: Sequence[float], now_s: float, ahead_s: float, *, since_s: float) -> float:
        """Requests/s to expect, on average over the next `ahead_s`.

        Args:
            arrived_s: Of all requests of the window.
            since_s: From when on arrivals were seen.
        """
        begin_s = max(now_s - self.window_s, since_s)
        span_s = now_s - begin_s
        if span_s <= 0:
            return 0.0
        num_bins = min(max(int(span_s / self.bin_s), MIN_BINS), MAX_BINS)
        bin_s = span_s / num_bins
        counts = [0.0] * num_bins
        for at_s in arrived_s:
            if begin_s <= at_s <= now_s:
                counts[min(int((at_s - begin_s) / bin_s), num_bins - 1)] += 1.0
        mean = sum(counts) / num_bins
        if not mean:
            return 0.0
        expected = holt(counts, ahead_s / bin_s)
        self.season.note(now_s, mean / bin_s)
        rise = self.season.rise(now_s, ahead_s)
        if rise is not None:
            expected = (expected + mean * rise) / 2
        newest = sum(counts[-NEWEST:]) / NEWEST
        return min(max(expected, mean / MAX_RISE), max(mean * MAX_RISE, newest)) / bin_s
