"""Who says how sequences of a simulated worker go on, and how much of it is right: tokens here are all alike."""

from collections.abc import Iterable

from cluster.contracts.simulation import SimDrafter
from workers.engine.drafting import proposed
from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats

MAX_TOKENS = 64  # drafted of each sequence in a step: the drafter says how many
VOCAB_SIZE = 1  # what a token is does not matter


class Drafting:
    """A drafter's work for one worker, counted in its statistics.

    Args:
        drafter: None: nobody drafts.
    """

    def __init__(self, drafter: SimDrafter | None, stats: EngineStats, *, max_model_len: int) -> None:
        self._drafter = drafter
        self._stats = stats
        self._max_model_len = max_model_len

    def propose(self, seqs: Iterable[Seq]) -> Drafts | None:
        if self._drafter is None:
            return None
        seqs = list(seqs)
        drafts = proposed(self._drafter, seqs, MAX_TOKENS, max_model_len=self._max_model_len, vocab_size=VOCAB_SIZE)
        return {seq.key: draft for seq, draft in zip(seqs, drafts, strict=True) if draft.token_ids}

    def accept(self, chunk: ScheduledChunk) -> int:
        """How many of the chunk's draft tokens are right; once, when its step is done."""
        if not chunk.draft_token_ids:
            return 0
        assert self._drafter is not None, "drafts that nobody proposed"
        num_accepted = self._drafter.num_accepted(chunk)
        self._stats.count_draft(chunk.draft.depths, num_accepted)
        return num_accepted
