"""A drafter for tests: it knows the answers, and is wrong where a hash says so."""

from collections.abc import Mapping, Sequence
from random import Random

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence as Seq

Answers = Mapping[tuple[str, int], Sequence[int]]


class Oracle:
    """Args:
    answers: By request and choice; where they end, 0 is proposed.
    num_drafts: Up to so many a step.
    right: Chance that a token is as the answer has it.
    """

    def __init__(self, answers: Answers, *, vocab_size: int, num_drafts: int = 6, right: float = 0.8) -> None:
        self._answers = answers
        self._vocab_size = vocab_size
        self._num_drafts = num_drafts
        self._right = right
        self._rng = Random(5)

    def propose(self, seqs: Sequence[Seq], depth: int) -> list[Draft]:
        return [Draft(self._draft(seq)[:depth]) for seq in seqs]

    def _draft(self, seq: Seq) -> list[int]:
        start, count = len(seq.output_token_ids), self._rng.randint(0, self._num_drafts)
        known = list(self._answers.get(seq.key, ())[start : start + count])
        known += [0] * (count - len(known))
        return [token if self._rng.random() < self._right else self._wrong(token) for token in known]

    def _wrong(self, token_id: int) -> int:
        """Another token, or none that there is."""
        return self._rng.choice([(token_id + 1) % self._vocab_size, self._vocab_size])
