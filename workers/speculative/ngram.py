"""Drafts without a draft model: what followed, in prompt and answer, where the same words stood before."""

from collections.abc import Sequence as List

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.speculative.suffixes import Suffixes

SPARE = 64  # texts kept of sequences that do not decode at the moment: they may have been preempted
_GRADES = (3, 5, 9)  # lengths of agreement from which a guess is of the next better class


class NgramDrafter:
    """See `workers.engine.drafting.Drafter`. Guesses of longer agreement are of a higher class."""

    num_classes = len(_GRADES) + 1

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._texts: dict[tuple[str, int, int], Suffixes] = {}  # the longest unused first

    def propose(self, seqs: List[Sequence]) -> List[Draft]:
        drafts = [self._draft(seq) for seq in seqs]
        while len(self._texts) > len(seqs) + SPARE:
            del self._texts[next(iter(self._texts))]
        return drafts

    def _draft(self, seq: Sequence) -> Draft:
        key = (*seq.key, seq.attempt)
        text = self._texts.pop(key, None)
        if text is None or len(text) > seq.num_tokens:
            text = Suffixes()
        self._texts[key] = text
        text.extend(seq.tokens(len(text), seq.num_tokens))
        token_ids, agreed = text.following(self._max_tokens)
        return Draft(token_ids, sum(agreed >= grade for grade in _GRADES))
