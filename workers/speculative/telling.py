"""When a draft worker tells what it guesses: a guess that somebody lacks at once, growth a few times in a peer's step.

A peer looks at a guess once in each of its steps and must read whatever comes, so a message after every pass would
cost it more than most guesses bring. How long its steps take is heard from how far its news lie apart.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from baton.v1.draft_pb2 import Guess
from workers.speculative.forecast import Forecast
from workers.speculative.forecasts import Peer, Planned
from workers.speculative.patience import ANSWER_TOKENS

Guesses = dict[int, Guess]  # by the sequence's number on its peer's stream
PER_STEP = 4  # messages of growth
MAX_STEP_S = 0.2  # news that lie further apart are no step's
SMOOTHING = 0.2


class Telling:
    """Of the draft engine's thread.

    Args:
        tell: Takes what is guessed anew, by peer.
    """

    def __init__(
        self, tell: Callable[[dict[Peer, Guesses]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._untold: dict[Forecast, Planned] = {}

    def heard(self, peer: Peer) -> None:
        """A step's news."""
        now_s = self._clock()
        if peer.heard_s is not None:
            peer.step_s += (min(now_s - peer.heard_s, MAX_STEP_S) - peer.step_s) * SMOOTHING
        peer.heard_s = now_s

    def grown(self, rows: Iterable[Planned]) -> None:
        """A pass made the guesses of these longer."""
        for row in rows:
            self._untold[row.text] = row
        now_s = self._clock()
        due = {peer for peer in {row.peer for row in self._untold.values()} if _is_due(peer, now_s)}
        for peer in due:
            peer.told_s = now_s
        self._send([row for row in self._untold.values() if row.peer in due or _is_answer(row)])

    def nothing_more(self) -> None:
        """Nothing grows until there is news."""
        self._send(list(self._untold.values()))

    def _send(self, rows: Iterable[Planned]) -> None:
        told: dict[Peer, Guesses] = defaultdict(dict)
        for row in rows:
            del self._untold[row.text]
            base, token_ids, parents = row.text.guess
            if token_ids:
                row.text.is_lacking = False
                told[row.peer][row.number] = Guess(number=row.number, base=base, token_ids=token_ids, parents=parents)
        if told:
            self._tell(told)


def _is_due(peer: Peer, now_s: float) -> bool:
    return now_s - peer.told_s >= peer.step_s / PER_STEP


def _is_answer(row: Planned) -> bool:
    """To a peer that has no guess of the text as it is now."""
    return row.text.is_lacking and row.text.is_deep(min(row.peer.limits.num_tokens, ANSWER_TOKENS))
