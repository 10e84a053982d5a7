"""Whether a step waits for guesses that are on their way, and how long: pure arithmetic on what was seen.

Waiting delays all that decode in a step by the time an answer takes; what it brings are the tokens that the guesses get
right, less what verifying them costs. A drafter that is late or gone makes its answers look slow, and is not waited for
until it answers again.
"""

ANSWER_TOKENS = 3  # that a guess must have, to end a wait
SMOOTHING = 0.1  # weight of the newest value in a moving average
MIN_GAIN = 1.2  # tokens that waiting must bring for each that it costs
SPARE = 1.5  # how much longer than usual an answer may take
FIRST_GAIN = 1.0  # tokens of a guess that are right, until some were seen
MAX_STEPS_APART = 8.0  # a longer pause between two steps was none of a step


class Patience:
    """Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self.answer_s: float | None = None  # from news to a guess made of it; None: not seen yet
        self.step_s: float | None = None
        self.gain = FIRST_GAIN

    def wait_s(self, num_missing: int, num_decodes: int) -> float:
        """How long to wait for guesses of `num_missing` of the sequences that decode; 0: go on without."""
        if self.answer_s is None or self.step_s is None or not num_missing:
            return 0.0
        brings, costs = num_missing * self.gain * self.step_s, num_decodes * self.answer_s
        if brings < costs * MIN_GAIN or self.answer_s * SPARE > self.step_s:
            return 0.0
        return self.answer_s * SPARE

    def answered(self, took_s: float) -> None:
        self.answer_s = _moved(self.answer_s, took_s)

    def gave_up(self, waited_s: float) -> None:
        """An answer took longer than was waited."""
        self.answer_s = _moved(self.answer_s, 4 * waited_s)

    def stepped(self, took_s: float) -> None:
        """From one step's guesses to the next one's, without what was waited."""
        if self.step_s is None or took_s < MAX_STEPS_APART * self.step_s:
            self.step_s = _moved(self.step_s, took_s)
        else:
            self.step_s *= 1 + SMOOTHING  # if it goes on like this, steps have become slower

    def proved(self, num_right: float) -> None:
        """So many tokens of a guess were right, less what verifying cost."""
        self.gain += (num_right - self.gain) * SMOOTHING


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + (value - average) * SMOOTHING
