"""How many requests were served well over the last minutes and hours. Bounded: one pair of counts for each 5 s.

No clock: whoever asks says what time it is, on the clock of the requests' times, which does not go back.
"""

from collections import deque
from dataclasses import dataclass

SLICE_S = 5.0
WINDOWS_S = {"1m": 60.0, "5m": 300.0, "30m": 1800.0, "1h": 3600.0, "6h": 21600.0}
_MAX_SLICES = int(max(WINDOWS_S.values()) / SLICE_S) + 1


@dataclass(slots=True)
class _Slice:
    number: int  # since the clock's 0
    num_requests: int = 0
    num_met: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Of one window.

    Attributes:
        over_s: What it covers: its length, or less where counting began later.
        num_met: Requests within the SLO.
    """

    over_s: float
    num_requests: int
    num_met: int

    @property
    def attainment(self) -> float | None:
        """None: there was no request."""
        return self.num_met / self.num_requests if self.num_requests else None

    @property
    def goodput(self) -> float:
        """Requests a second within the SLO."""
        return self.num_met / self.over_s


class SLOWindows:
    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._slices: deque[_Slice] = deque(maxlen=_MAX_SLICES)

    def note(self, now_s: float, *, is_met: bool) -> None:
        """One request ended."""
        number = int(now_s / SLICE_S)
        if not self._slices or self._slices[-1].number < number:
            self._slices.append(_Slice(number))
        self._slices[-1].num_requests += 1
        self._slices[-1].num_met += is_met

    def over(self, window_s: float, now_s: float) -> Served:
        """The last `window_s`, to within a slice."""
        first = int((now_s - window_s) / SLICE_S) + 1
        num_requests = num_met = 0
        for one in reversed(self._slices):
            if one.number < first:
                break
            num_requests += one.num_requests
            num_met += one.num_met
        over_s = min(window_s, max(now_s - self._started_s, SLICE_S))
        return Served(over_s=over_s, num_requests=num_requests, num_met=num_met)
