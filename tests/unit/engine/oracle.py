"""A drafter for tests: it knows the answers, and is wrong where a hash says so."""

from collections.abc import Mapping, Sequence
from random import Random

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence as Seq

Answers = Mapping[tuple[str, int], Sequence[int]]


class Oracle:
    """Args:
    answers: By request and choice; where they end, 0 is proposed.
    num_drafts: Up to so many a step, in a row.
    right: Chance that a token is as the answer has it.
    width: Above 1, trees: of the answer's tokens, and of up to so many others after any of them or of those.
    """

    def __init__(
        self, answers: Answers, *, vocab_size: int, num_drafts: int = 6, right: float = 0.8, width: int = 1
    ) -> None:
        self._answers = answers
        self._vocab_size = vocab_size
        self._num_drafts = num_drafts
        self._right = right
        self._width = width
        self._rng = Random(5)

    def propose(self, seqs: Sequence[Seq], depth: int) -> list[Draft]:
        paths = [self._draft(seq)[:depth] for seq in seqs]
        return [Draft(path) if self._width == 1 else self._tree(path) for path in paths]

    def _draft(self, seq: Seq) -> list[int]:
        start, count = len(seq.output_token_ids), self._rng.randint(0, self._num_drafts)
        known = list(self._answers.get(seq.key, ())[start : start + count])
        known += [0] * (count - len(known))
        return [token if self._rng.random() < self._right else self._wrong(token) for token in known]

    def _tree(self, path: Sequence[int]) -> Draft:
        """Branches off `path`, which is itself somewhere among them; now and then equal ones."""
        token_ids: list[int] = []
        parents: list[int] = []
        at = -1
        for token_id in path:
            others = [self._rng.randrange(self._vocab_size) for _ in range(self._rng.randrange(self._width))]
            own = self._rng.randint(0, len(others))
            for index, other in enumerate([*others[:own], token_id, *others[own:]]):
                token_ids.append(other)
                parents.append(at if index == own else self._rng.choice([at, self._rng.randint(-1, len(parents) - 1)]))
            at = len(token_ids) - 1 - (len(others) - own)
        return Draft(token_ids, parents=parents)

    def _wrong(self, token_id: int) -> int:
        """Another token, or none that there is."""
        return self._rng.choice([(token_id + 1) % self._vocab_size, self._vocab_size])
