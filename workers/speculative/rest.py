"""Whether draft workers rest: while steps make as many tokens a second without what they guess.

No single step shows what draft workers cost all steps: cores, memory's bandwidth, and the reading of their messages. So
both ways are tried, a few steps each, at each load; then the better one stays, and the other is tried again, ever more
seldom while it stays the worse. Where guesses gain clearly there is nothing to try.
"""

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
TRIAL_STEPS = 12
SETTLING_STEPS = 4  # after a change, which are not counted: texts are read first, or work that was begun ends
FIRST_STAY, LONGEST_STAY = 8, 128  # trials' lengths that the better way stays, and at most
LEAST_GAIN = 1.01  # rather than for less, draft workers rest
CLEAR_GAIN = 1.3  # over plain steps; what draft workers cost those is less
_WEIGHT = 0.5  # of the newest trial


@dataclass(slots=True)
class _Load:
    """What is known of about so many decodes.

    Attributes:
        gain: Tokens a second with guesses, for each without; None: not tried yet.
        rates: Of the newest trial of each way; True: at rest.
        left: Trials' lengths until the other way is tried.
    """

    is_resting: bool
    gain: float | None = None
    rates: dict[bool, float] = field(default_factory=dict)
    is_trial: bool = False
    left: int = 1
    stay: int = FIRST_STAY
    num_steps: int = 0
    num_tokens: int = 0
    took_s: float = 0.0
    plain_tokens: float = 0.0

    def stepped(self, num_tokens: int, took_s: float, plain_tokens: float) -> None:
        self.num_steps += 1
        self.num_tokens += num_tokens
        self.took_s += took_s
        self.plain_tokens += plain_tokens
        if self.num_steps == TRIAL_STEPS:
            self._conclude()
            self.begin_anew()

    def begin_anew(self) -> None:
        self.num_steps = self.num_tokens = 0
        self.took_s = self.plain_tokens = 0.0

    def _conclude(self) -> None:
        self.rates[self.is_resting] = self.num_tokens / max(self.took_s, 1e-9)
        self.left -= 1
        if self.is_trial:
            self._decide()
        elif not self.is_resting and self.num_tokens > CLEAR_GAIN * self.plain_tokens:
            self.left = max(self.left, 1)
        elif self.left <= 0:
            self.is_resting, self.is_trial = not self.is_resting, True

    def _decide(self) -> None:
        """Both ways were tried, one right after the other."""
        gain = self.rates[False] / max(self.rates[True], 1e-9)
        was_better = None if self.gain is None else self.gain >= LEAST_GAIN
        self.gain = gain if self.gain is None else self.gain + _WEIGHT * (gain - self.gain)
        is_better = self.gain >= LEAST_GAIN
        self.stay = min(2 * self.stay, LONGEST_STAY) if is_better == was_better else FIRST_STAY
        self.is_resting, self.is_trial, self.left = not is_better, False, self.stay
        if is_better != was_better:
            logger.info("draft workers rest=%s gain=%.2f", self.is_resting, self.gain)


class Rest:
    """Of one worker that decodes; plain arithmetic, no clock."""

    def __init__(self) -> None:
        self._loads: dict[int, _Load] = {}  # by the doublings of decodes
        self._load = _Load(is_resting=False)
        self._was_resting = False
        self._num_settling = 0
        self._num_decodes = 0

    @property
    def is_resting(self) -> bool:
        """In the step that has begun."""
        return self._load.is_resting

    def rests_at(self, num_decodes: int) -> bool:
        """Whether they do with so many sequences; with numbers that were not seen yet as with lower ones."""
        known = [size for size in self._loads if size <= num_decodes.bit_length()]
        return bool(known) and self._loads[max(known)].is_resting

    def begin(self, num_decodes: int) -> None:
        """A step in which so many sequences decode; where none does, nothing changes."""
        if not num_decodes:
            return
        size = num_decodes.bit_length()
        if size not in self._loads:
            self._loads[size] = _Load(is_resting=self.rests_at(num_decodes))
        load, self._num_decodes = self._loads[size], num_decodes
        if load is not self._load:
            load.begin_anew()
        self._load = load
        if load.is_resting != self._was_resting:
            self._was_resting, self._num_settling = load.is_resting, SETTLING_STEPS

    def stepped(self, num_tokens: int, took_s: float, plain_s: float) -> None:
        """The step only decoded.

        Args:
            num_tokens: That it made.
            plain_s: What it would have taken without drafts.
        """
        if self._num_settling:
            self._num_settling -= 1
            return
        self._load.stepped(num_tokens, took_s, self._num_decodes * took_s / max(plain_s, 1e-9))
