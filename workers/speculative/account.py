"""What drafts have brought at one load, and how sure a gain must therefore look to be tried.

What is expected of drafts is noisy, and the best of several noisy figures is mostly one that is too good to be true.
So it is booked what came of it; the deeper in debt, the more must be promised. Clear gains always are enough.
"""

MIN_GAIN = 1.02  # less is within what steps vary by
_PRICE = 0.1  # more to be promised for each plain step of debt
_FREE = 0.5  # plain steps of debt without a price
_MOST, _LEAST = 2.0, -8.0  # plain steps
_MOST_LOST = 2.0  # plain steps by one step: more was a disturbance
_ALLOWANCE = 0.01  # plain steps, with each step that drafts nothing
_SMOOTHING = 0.1


class Account:
    """In plain steps: what a step without drafts takes, and the tokens that it makes."""

    def __init__(self) -> None:
        self._balance = 0.0
        self.gain = 0.0  # by each step with drafts; moving average

    def book(self, gained: float) -> None:
        """A step with drafts made so many tokens more than a plain one would have in the time; negative: fewer."""
        self._balance = min(max(self._balance + max(gained, -_MOST_LOST), _LEAST), _MOST)
        self.gain += _SMOOTHING * (gained - self.gain)

    def rest(self) -> None:
        """A plain step: debts are forgotten slowly."""
        self._balance = max(self._balance, min(self._balance + _ALLOWANCE, 0.0))

    @property
    def least_gain(self) -> float:
        """How many times as many tokens a second drafts must promise."""
        return MIN_GAIN + _PRICE * max(-self._balance - _FREE, 0.0)
