"""The tries of one call: how long each may take, and whether and when another follows.

Invariant: a pause never reaches past the deadline; an error that cannot be retried within it is raised at once.
"""

import random
import time
from collections.abc import Callable

from baton.errors import BatonError, InvalidRequestError, OverloadedError

BASE_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0


class Attempts:
    """Budget of one call; not shared between calls."""

    def __init__(
        self,
        *,
        timeout_s: float,
        max_retries: int,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not timeout_s > 0:
            raise InvalidRequestError(f"timeout_s={timeout_s} must be over 0 seconds", field="timeout_s")
        self._clock = clock
        self._deadline_s = clock() + timeout_s
        self._retries_left = max_retries
        self._num_failures = 0
        self._rng = rng

    def remaining_s(self) -> float:
        """Seconds to the deadline, >= 0."""
        return max(0.0, self._deadline_s - self._clock())

    def pause_s(self, error: BatonError) -> float:
        """Seconds to wait before the next try.

        Doubles from 0.1 s to at most 5 s, less up to half of it at random; at least what an OverloadedError asks for.

        Raises:
            BatonError: `error` itself, when it is not retryable, no retry is left, or the deadline comes first.
        """
        if not error.retryable or self._retries_left <= 0:
            raise error
        pause_s = min(MAX_PAUSE_S, BASE_PAUSE_S * 2.0**self._num_failures) * self._rng.uniform(0.5, 1.0)
        if isinstance(error, OverloadedError):
            pause_s = max(pause_s, error.retry_after_s)
        if pause_s >= self.remaining_s():
            raise error
        self._retries_left -= 1
        self._num_failures += 1
        return pause_s
