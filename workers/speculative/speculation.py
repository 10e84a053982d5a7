"""One engine's speculation: a drafter's guesses, how much of them is verified, and what came of it."""

import time
from collections.abc import Callable, Sequence

from workers.engine.drafting import Draft, Drafter, proposed
from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind
from workers.speculative.goodput import Goodput, Outcome


class DraftedSpeculation:
    """See `workers.engine.drafting.Speculation`.

    Args:
        max_tokens: Drafted at most, of each sequence in a step.
        goodput: Chooses how much is verified; None: all that fits.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        max_tokens: int,
        max_model_len: int,
        vocab_size: int,
        goodput: Goodput | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._drafter, self._goodput, self._clock = drafter, goodput, clock
        self._max_tokens = max_tokens
        self.drafting_s = 0.0
        self._limits = {"max_model_len": max_model_len, "vocab_size": vocab_size}
        self._kinds: dict[tuple[str, int], int] = {}  # of the step's drafts

    def drafts(self, seqs: Sequence[Seq], num_decodes: int) -> Drafts:
        began_s = self._clock()
        drafts = proposed(self._drafter, seqs, self._max_tokens, **self._limits)
        if self._goodput is not None:
            lengths = self._goodput.choose(drafts, num_decodes)
            drafts = [Draft(draft.token_ids[:n], draft.kind) for draft, n in zip(drafts, lengths, strict=True)]
        self._kinds = {seq.key: draft.kind for seq, draft in zip(seqs, drafts, strict=True)}
        self.drafting_s += self._clock() - began_s
        return {seq.key: draft.token_ids for seq, draft in zip(seqs, drafts, strict=True) if draft.token_ids}

    def learn(self, chunks: Sequence[ScheduledChunk], num_accepted: Sequence[int], took_s: float) -> None:
        num_decodes = sum(chunk.kind is ChunkKind.DECODE for chunk in chunks)
        if not num_decodes:
            return
        outcomes = [
            Outcome(self._kinds.get(chunk.seq.key, 0), len(chunk.draft_token_ids), accepted)
            for chunk, accepted in zip(chunks, num_accepted, strict=True)
            if chunk.draft_token_ids
        ]
        if self._goodput is not None:
            self._goodput.learn(outcomes)
            if num_decodes == len(chunks):
                self._goodput.took(num_decodes, sum(one.num_drafts for one in outcomes), took_s)
