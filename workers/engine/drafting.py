"""Who guesses how sequences go on, and how much of a guess is of use.

Drafts are proposed anew before each step and forgotten after it: nothing here is state of a sequence.
"""

from collections.abc import Iterable
from collections.abc import Sequence as List
from typing import Protocol

from workers.engine.scheduler import Drafts
from workers.engine.sequence import Sequence


class Drafter(Protocol):
    def propose(self, seqs: List[Sequence]) -> List[List[int]]:
        """For each sequence the tokens that may follow its last one, the next first; empty: no guess.

        Called by the engine's thread before each step, with all that decode here; the step waits for it. A wrong guess
        costs its computation, never a wrong token.
        """
        ...


def proposed(drafter: Drafter, seqs: List[Sequence], *, max_model_len: int, vocab_size: int) -> Drafts:
    """What `drafter` proposes, as far as it can be of use to each sequence."""
    return {
        seq.key: _usable(draft, _num_left(seq, max_model_len) - 1, vocab_size)
        for seq, draft in zip(seqs, drafter.propose(seqs), strict=True)
        if draft
    }


def _num_left(seq: Sequence, max_model_len: int) -> int:
    """Tokens that the answer may still get, >= 1 while it goes on."""
    return min(seq.params.max_tokens - len(seq.output_token_ids), max_model_len - seq.num_tokens)


def _usable(draft: Iterable[int], max_tokens: int, vocab_size: int) -> list[int]:
    """The beginning of `draft` before a token that the model does not have; the last token needs no draft."""
    usable: list[int] = []
    for token_id in draft:
        if len(usable) >= max_tokens or not 0 <= token_id < vocab_size:
            break
        usable.append(token_id)
    return usable
