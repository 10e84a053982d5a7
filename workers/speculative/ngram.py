"""Drafts without a draft model: what followed, in prompt and answer, where the same words stood before."""

from collections.abc import Sequence as List

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.model.trees import MAX_TOKENS
from workers.speculative.growing import MOST_SEQS, GrowingTree
from workers.speculative.suffixes import Suffixes

READ_AT_ONCE = 4096  # tokens, in one step: some milliseconds, which all that decode wait for
_GRADES = (3, 5, 9)  # lengths of agreement from which a guess is of the next better class


class NgramDrafter:
    """See `workers.engine.drafting.Drafter`. Guesses of longer agreement are of a higher class.

    Args:
        width: Above 1 trees, of up to `MOST_SEQS` sequences: several places that agree give several ways on. The token
            with which one leaves another, which agreed longer, is of a class of its own.
    """

    num_classes = 2 * (len(_GRADES) + 1)  # the second half: of tokens where a way leaves another

    def __init__(self, width: int = 1) -> None:
        self._width = width
        self._texts: dict[tuple[str, int, int], Suffixes] = {}  # of the sequences of the last step

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        texts, drafts, left = {}, [], READ_AT_ONCE
        width = self._width if len(seqs) <= MOST_SEQS else 1
        for seq in seqs:
            key = (*seq.key, seq.attempt)
            text = self._texts.get(key)
            if text is None or len(text) > seq.num_tokens:
                text = Suffixes()
            num_read = len(text)
            text.extend(seq.tokens(num_read, min(seq.num_tokens, num_read + left)))
            left -= len(text) - num_read
            texts[key] = text
            drafts.append(self._draft(text, depth, width) if len(text) == seq.num_tokens else Draft())
        self._texts = texts
        return drafts

    def _draft(self, text: Suffixes, depth: int, width: int) -> Draft:
        if width == 1:
            token_ids, agreed = text.following(depth)
            return Draft(token_ids, _grade(agreed))
        tree = GrowingTree(width, min(width * depth, MAX_TOKENS))
        for token_ids, agreed in text.continuations(depth):
            grade = _grade(agreed)
            tree.add_path(token_ids, grade, grade + self.num_classes // 2)
        return tree.draft()


def _grade(agreed: int) -> int:
    return sum(agreed >= grade for grade in _GRADES)
