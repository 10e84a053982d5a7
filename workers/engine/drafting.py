"""Who guesses how sequences go on, and how much of a guess is of use.

Drafts are proposed anew before each step and forgotten after it: nothing here is state of a sequence.
"""

from collections.abc import Iterable
from collections.abc import Sequence as List
from typing import NamedTuple, Protocol

from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence


class Draft(NamedTuple):
    """Attributes:
    token_ids: What may follow a sequence's last token, the next first; empty: no guess.
    kind: Of how sure it is: drafts of one kind are right about equally often. The higher, the surer.
    parents: Of a tree: for each token the place in `token_ids` of the one before it, which comes first; -1: the
        sequence's last token. No token has two equal children. Empty: each follows the one before, a single path.
    """

    token_ids: List[int] = ()
    kind: int = 0
    parents: List[int] = ()


class Drafter(Protocol):
    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        """For each sequence a guess.

        Called by the engine's thread before each step, with all that decode here; the step waits for it. A wrong guess
        costs its computation, never a wrong token.

        Args:
            depth: Tokens in a row that are of use now, >= 1. Where each costs time, no more are drafted.
        """
        ...


class Speculation(Protocol):
    """A drafter, and how much of what it proposes is verified. Of the engine's thread."""

    drafting_s: float  # that steps have waited for drafts so far

    def drafts(self, seqs: List[Sequence], num_decodes: int) -> Drafts:
        """Before each step, for the sequences that want drafts, of `num_decodes` that decode."""
        ...

    def learn(self, chunks: List[ScheduledChunk], num_accepted: List[int], took_s: float) -> None:
        """After the step: its chunks, how many draft tokens of each were right, and what it took, drafting included."""
        ...


def proposed(drafter: Drafter, seqs: List[Sequence], depth: int, *, max_model_len: int, vocab_size: int) -> List[Draft]:
    """What `drafter` proposes, as far as it can be of use to each sequence."""
    return [
        draft._replace(token_ids=_usable(draft.token_ids, _num_left(seq, max_model_len) - 1, vocab_size))
        for seq, draft in zip(seqs, drafter.propose(seqs, depth), strict=True)
    ]


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
