"""Who guesses how sequences go on, and how much of a guess is of use.

Drafts are proposed anew before each step and forgotten after it: nothing here is state of a sequence.
"""

from collections.abc import Iterable
from collections.abc import Sequence as List
from typing import Protocol

from workers.engine.draft import FORCED, Draft
from workers.engine.following import MAX_FORCED
from workers.engine.jobs import JobWatch
from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence
from workers.model.contract import Watch
from workers.model.trees import MAX_TOKENS

__all__ = ["Draft", "Drafter", "Speculation", "forced", "proposed"]


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
    job_watch: JobWatch | None  # who wants to know of sequences that draft workers draft for

    @property
    def watch(self) -> Watch | None:
        """Asked of the step whose drafts were proposed last; None: nothing."""
        ...

    def passes(self, num_seqs: int) -> bool:
        """Whether nothing is drafted for the next step, of about so many sequences, whatever they write until then.

        Asked before each step, in place of `drafts` where it is so.
        """
        ...

    def limit(self, max_tokens: int) -> None:
        """Of drafts in a row, of each sequence in a step, from now on."""
        ...

    def drafts(self, seqs: List[Sequence], num_decodes: int) -> Drafts:
        """Before each step, for the sequences that want drafts, of `num_decodes` that decode."""
        ...

    def learn(self, chunks: List[ScheduledChunk], num_accepted: List[int], took_s: float) -> None:
        """After the step: its chunks, how many draft tokens of each were right, and what it took, drafting included."""
        ...


def proposed(
    drafter: Drafter,
    seqs: List[Sequence],
    depth: int,
    *,
    max_model_len: int,
    vocab_size: int,
    paths_only: bool = False,
) -> List[Draft]:
    """What `drafter` proposes, as far as it can be of use to each sequence.

    Args:
        paths_only: Of a tree its first path alone is of use: the model keeps states, and a state has no branches.
    """
    drafts = drafter.propose(seqs, depth)
    if paths_only:
        drafts = [draft.first_path() for draft in drafts]
    return [
        _allowed(seq, _usable(draft, _num_left(seq, max_model_len) - 1, vocab_size))
        for seq, draft in zip(seqs, drafts, strict=True)
    ]


def forced(seqs: Iterable[Sequence], max_model_len: int) -> dict[tuple[str, int], Draft]:
    """What grammars force, of sequences that decode: as drafts, so that they are not written one by one."""
    found: dict[tuple[str, int], Draft] = {}
    for seq in seqs:
        if seq.follower is not None:
            most = min(_num_left(seq, max_model_len) - 1, MAX_FORCED)
            if token_ids := seq.follower.forced(seq.output_token_ids)[:most] if most > 0 else ():
                found[seq.key] = Draft(token_ids, kind=FORCED)
    return found


def _allowed(seq: Sequence, draft: Draft) -> Draft:
    if seq.follower is None or not draft.token_ids:
        return draft
    return seq.follower.cut(draft, seq.output_token_ids)


def _num_left(seq: Sequence, max_model_len: int) -> int:
    """Tokens that the answer may still get, >= 1 while it goes on."""
    return min(seq.params.max_tokens - len(seq.output_token_ids), max_model_len - seq.num_tokens)


def _usable(draft: Draft, most: int, vocab_size: int) -> Draft:
    """Without tokens that the model does not have, those more than `most` in a row (the answer's last needs no draft),
    a second of equal children, and all that follows such; of a tree, up to its largest size.
    """
    if not draft.parents:
        strange = (at for at, token_id in enumerate(draft.token_ids) if not 0 <= token_id < vocab_size)
        return draft.first(max(min(most, next(strange, len(draft.token_ids))), 0))
    kept: dict[int, int] = {-1: 0}  # their depths
    seen: set[tuple[int, int]] = set()
    for at, link in enumerate(zip(draft.parents, draft.token_ids, strict=True)):
        parent, token_id = link
        if parent in kept and kept[parent] < most and 0 <= token_id < vocab_size and link not in seen:
            kept[at] = kept[parent] + 1
            seen.add(link)
    places = list(kept)[1 : MAX_TOKENS + 1]
    return draft if len(places) == len(draft.token_ids) else draft.of(places)
