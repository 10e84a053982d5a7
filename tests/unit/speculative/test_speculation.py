"""Of many sequences whose guesses are not worth verifying, nobody looks for guesses in most steps."""

from collections.abc import Sequence as List

import pytest

from tests.unit.speculative.test_draft_model import sequence
from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.speculative.goodput import Goodput
from workers.speculative.growing import MOST_SEQS
from workers.speculative.speculation import ASK_EVERY, QUIET_STEPS, DraftedSpeculation


class Guessing:
    """Counts how often it is asked."""

    num_asked = 0

    def propose(self, seqs: List[Sequence], depth: int) -> list[Draft]:
        self.num_asked += 1
        return [Draft([1])] * len(seqs)


def steps(num_seqs: int, num_steps: int, *, pays: bool) -> int:
    """How often a drafter is asked in so many steps after the first quiet ones."""
    guessing, goodput = Guessing(), Goodput(4)
    speculation = DraftedSpeculation(
        guessing, max_tokens=4, max_model_len=64, vocab_size=8, goodput=goodput, clock=lambda: 0.0
    )
    seqs = [sequence(str(number), [1, 2, 3]) for number in range(num_seqs)]
    for num_drafts in (0, 0, 1, 4, 64) if pays else ():  # else it is not known what a step takes, and nothing is chosen
        goodput.took(num_seqs, num_drafts, 1.0)
    for _ in range(QUIET_STEPS):
        speculation.drafts(seqs, num_seqs)
    guessing.num_asked = 0
    for _ in range(num_steps):
        speculation.drafts(seqs, num_seqs)
    return guessing.num_asked


@pytest.mark.parametrize(
    ("num_seqs", "pays", "num_asked"), [(MOST_SEQS + 1, False, 20), (MOST_SEQS, False, 80), (MOST_SEQS + 1, True, 80)]
)
def test_many_sequences_without_use_for_guesses_are_asked_for_seldom(num_seqs: int, pays: bool, num_asked: int) -> None:
    assert steps(num_seqs, 20 * ASK_EVERY, pays=pays) == num_asked
