"""What drafting would have brought on answers that are known: rounds, tokens of each, and the time they take.

Greedy answers alone, and one sequence at a time. A guess depends on the text before it alone, and that is the same
whatever was guessed; so the guesses at all places of an answer can be had in one pass.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from workers.speculative.suffixes import Suffixes

# (number of the answer's tokens that are known, tokens wanted) -> the guess at those that follow
Guess = Callable[[int, int], Sequence[int]]


@dataclass(slots=True)
class Tally:
    num_tokens: int = 0  # written by the rounds
    rounds: Counter[int] = field(default_factory=Counter)  # by how many tokens were drafted
    drafted: Counter[int] = field(default_factory=Counter)  # by place in the draft, from 0
    accepted: Counter[int] = field(default_factory=Counter)

    def acceptance(self, place: int) -> float:
        """Of the drafts that have such a place, how many were right up to there."""
        return self.accepted[place] / max(self.drafted[place], 1)

    def time_ms(self, step_ms: Mapping[int, float], draft_ms: float) -> float:
        """
        Args:
            step_ms: What the target takes for so many tokens of one sequence.
            draft_ms: For each drafted token.
        """
        return sum(count * (step_ms[1 + drafted] + drafted * draft_ms) for drafted, count in self.rounds.items())


def play(answers: Sequence[tuple[Sequence[int], Guess]], depth: int) -> Tally:
    """Answers, each with who guesses; the first token of each comes with the prompt, before the first round.

    A round that needs fewer tokens to end the answer drafts fewer.
    """
    tally = Tally()
    for token_ids, guess in answers:
        at = 1
        while at < len(token_ids):
            draft = guess(at, min(depth, len(token_ids) - at - 1))
            right = num_right(draft, token_ids[at:])
            tally.rounds[len(draft)] += 1
            tally.drafted.update(range(len(draft)))
            tally.accepted.update(range(right))
            tally.num_tokens += right + 1
            at += right + 1
    return tally


def num_right(draft: Sequence[int], token_ids: Sequence[int]) -> int:
    for place, (guessed, token_id) in enumerate(zip(draft, token_ids, strict=False)):
        if guessed != token_id:
            return place
    return min(len(draft), len(token_ids))


def by_model(guesses: Sequence[int]) -> Guess:
    """`guesses`: the model's likeliest token at each place of the answer, after what the answer has before it.

    Past the first wrong token that is not what the model would draft, and does not matter.
    """
    return lambda known, wanted: guesses[known : known + wanted]


def by_copy(prompt: Sequence[int], answer: Sequence[int]) -> Guess:
    """As `workers.speculative.ngram` does; to be asked in order."""
    text = Suffixes()
    text.extend(prompt)

    def guess(known: int, wanted: int) -> Sequence[int]:
        text.extend(answer[len(text) - len(prompt) : known])
        return text.following(wanted)[0]

    return guess
