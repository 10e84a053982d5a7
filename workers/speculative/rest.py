"""Whether draft workers rest: while steps make as many tokens a second without what they guess.

No single step shows what draft workers cost all steps: cores, memory's bandwidth, and the reading of their messages. So
both ways are tried, a few steps each, at each load; then the better one stays, and the other is tried again, ever more
seldom while it stays the worse. Where guesses gain clearly there is nothing to try, and where no draft worker is there
to gain, nothing is learnt that would keep one from being heard when it is back.
"""

import logging
from dataclasses import dataclass, field

from workers.speculative.step_times import size_class

logger = logging.getLogger(__name__)
TRIAL_STEPS = 12
SETTLING_STEPS = 4  # at first and after a change, which are not counted: work that was begun ends, texts are read
MOST_SETTLING_STEPS = 64  # while they are read: draft workers that read for longer are too slow
FIRST_STAY, LONGEST_STAY = 8, 128  # trials' lengths that the better way stays, and at most
LEAST_GAIN = 1.01  # rather than for less, draft workers rest
CLEAR_GAIN = 1.3  # over plain steps; what draft workers cost those is less
_WEIGHT = 0.5  # of the newest trial
_LEAST_WEIGHT = 0.01  # of the newest step in what steps usually take; that of the n-th is 1/n until then


@dataclass(slots=True)
class _Load:
    """What is known of about so many decodes.

    Attributes:
        gain: Tokens a second with guesses, for each without; None: not tried yet.
        rates: Of the newest trial of each way, tokens of each sequence in what a step usually takes; True: at rest.
        left: Trials' lengths until the other way is tried.
    """

    is_resting: bool
    gain: float | None = None
    rates: dict[bool, float] = field(default_factory=dict)
    is_trial: bool = False
    left: int = 1
    stay: int = FIRST_STAY
    num_steps: int = 0
    tokens: float = 0.0
    took: float = 0.0
    plain_tokens: float = 0.0

    def stepped(self, tokens: float, took: float, plain_tokens: float) -> None:
        """Args: tokens: Of each sequence, as the last one. took: In what such a step usually takes."""
        self.num_steps += 1
        self.tokens += tokens
        self.took += took
        self.plain_tokens += plain_tokens
        if self.num_steps == TRIAL_STEPS:
            self._conclude()
            self.num_steps, self.tokens, self.took, self.plain_tokens = 0, 0.0, 0.0, 0.0

    def _conclude(self) -> None:
        self.rates[self.is_resting] = self.tokens / max(self.took, 1e-9)
        self.left -= 1
        if self.is_trial:
            self._decide()
        elif not self.is_resting and self.tokens > CLEAR_GAIN * self.plain_tokens:
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
    """Of one worker that decodes; plain arithmetic, no clock.

    Attributes:
        is_served: A draft worker is up that may guess at what is decoded.
        is_reading: Most of what is decoded it has not guessed at yet, since it was woken.
    """

    def __init__(self) -> None:
        self.is_served, self.is_reading = True, False
        self._loads: dict[int, _Load] = {}  # by the doublings of decodes
        self._load = _Load(is_resting=False)
        self._was_resting = False
        self._num_settled: int | None = 0  # steps since a change, while they are not counted
        self._num_decodes = 0
        self._usual = _Usual()

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
        self._load, self._num_decodes = self._loads[size], num_decodes
        if self.is_resting != self._was_resting:
            self._was_resting, self._num_settled = self.is_resting, 0

    def stepped(self, num_tokens: int, took_s: float, plain_s: float) -> None:
        """The step only decoded. Trials go on where loads come and go: few last for as many steps in a row.

        Args:
            num_tokens: That it made.
            plain_s: What it would have taken without drafts.
        """
        if not self.is_served:
            self._num_settled = 0
            return
        if self._num_settled is not None:
            self._num_settled += 1
            if self._num_settled >= (MOST_SETTLING_STEPS if self.is_reading else SETTLING_STEPS):
                self._num_settled = None
            return
        num_decodes = max(self._num_decodes, 1)
        took = took_s / max(self._usual.learn(num_decodes, took_s), 1e-9)
        self._load.stepped(num_tokens / num_decodes, took, took_s / max(plain_s, 1e-9))


class _Usual:
    """What steps take by how many sequences decode in them, whatever else: of one load there are many such numbers,
    and both ways must be held against the same.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, int]] = {}  # by class of decodes: seconds, of so many steps

    def learn(self, num_decodes: int, took_s: float) -> float:
        """Seconds, before this step was known; of the first one its own."""
        size = size_class(num_decodes)
        usual_s, num_steps = self._known.get(size, (took_s, 0))
        weight = max(1 / (num_steps + 1), _LEAST_WEIGHT)
        self._known[size] = (usual_s + weight * (took_s - usual_s), num_steps + 1)
        return usual_s
