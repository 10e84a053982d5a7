"""One engine's speculation: a drafter's guesses, how much of them is verified, and what came of it."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from workers.engine.draft import FORCED
from workers.engine.drafting import Draft, Drafter, proposed
from workers.engine.jobs import JobWatch
from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind, Watch
from workers.speculative.goodput import Goodput, Outcome
from workers.speculative.growing import MOST_SEQS
from workers.speculative.pace import Pace
from workers.speculative.rest import Rest

QUIET_STEPS = 16  # in which nothing was worth verifying; then, of many sequences, nobody is asked in most steps
ASK_EVERY = 4  # steps
ASK_AHEAD_EVERY = 8  # steps, where asking means that the next step waits for this one's tokens


class DraftedSpeculation:
    """See `workers.engine.drafting.Speculation`.

    Args:
        max_tokens: Drafted in a row at most, of each sequence in a step.
        paths_only: See `workers.engine.drafting.proposed`.
        goodput: Chooses how much is verified; None: all that fits.
        watch: Told what steps find likely; None: nobody is.
        job_watch: Is told of sequences that draft workers draft for.
        pace: Of a drafter that is a `workers.speculative.paced.PacedDrafter` with this goodput.
        rest: Of a drafter that is a `workers.speculative.remote.RemoteDrafter` with this goodput.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        max_tokens: int,
        max_model_len: int,
        vocab_size: int,
        paths_only: bool = False,
        goodput: Goodput | None = None,
        watch: Watch | None = None,
        job_watch: JobWatch | None = None,
        pace: Pace | None = None,
        rest: Rest | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._goodput, self._clock = goodput, clock
        self._pace, self._rest = pace, rest
        self._max_tokens = max_tokens
        self.job_watch = job_watch
        self._told_s = 0.0  # that steps had waited for draft workers
        self.drafting_s = 0.0
        self._watch = watch
        self._num_seqs = 0  # of the step
        self._is_passed = False  # the step has no drafts, and nobody was asked
        self._num_quiet = 0  # steps since something was worth verifying
        self._propose = partial(
            proposed, drafter, max_model_len=max_model_len, vocab_size=vocab_size, paths_only=paths_only
        )

    @property
    def watch(self) -> Watch | None:
        """Of a step of many sequences nothing is told."""
        return self._watch if self._num_seqs <= MOST_SEQS and not self._is_passed else None

    def passes(self, num_seqs: int) -> bool:
        """Where nothing was worth verifying for a while, in most steps: then one need not wait for another's tokens.

        Draft workers are heard in each step, and one that drafts here has its own pace.
        """
        self._is_passed = (
            self._num_quiet >= QUIET_STEPS
            and (self._num_quiet + 1) % ASK_AHEAD_EVERY != 0
            and self._goodput is not None
            and self._pace is None
            and self.job_watch is None
        )
        self._num_quiet += self._is_passed
        return self._is_passed

    def limit(self, max_tokens: int) -> None:
        """Drafts in a row of each sequence, from now on."""
        self._max_tokens = max_tokens

    def drafts(self, seqs: Sequence[Seq], num_decodes: int) -> Drafts:
        began_s = self._clock()
        self._is_passed = False
        self._num_seqs = len(seqs)
        if self._pace is not None:
            self._pace.begin(num_decodes)
        if self._rest is not None:
            self._rest.begin(num_decodes)
        self._num_quiet += 1
        if self._leaves_out():
            return {}
        drafts = self._propose(seqs, self._max_tokens)
        if self._goodput is not None:
            drafts = self._chosen(self._goodput, drafts, num_decodes)
        self.drafting_s += self._clock() - began_s
        found = {seq.key: draft for seq, draft in zip(seqs, drafts, strict=True) if draft.token_ids}
        self._num_quiet = 0 if found else self._num_quiet
        return found

    def _leaves_out(self) -> bool:
        """Of many sequences the mere looking costs a step a hundredth. Draft workers that work are heard in each."""
        if self._num_quiet <= QUIET_STEPS or self._num_seqs <= MOST_SEQS or self._num_quiet % ASK_EVERY == 0:
            return False
        return self._goodput is not None and (
            self.job_watch is None or (self._rest is not None and self._rest.is_resting)
        )

    def _chosen(self, goodput: Goodput, drafts: Sequence[Draft], num_decodes: int) -> list[Draft]:
        """Of each draft what is to be verified."""
        ordered = [goodput.acceptance.likeliest_first(draft) if draft.parents else draft for draft in drafts]
        lengths = goodput.choose(ordered, num_decodes)
        if self._pace is not None:
            lengths = self._pace.verified(ordered, lengths)
        chosen = [draft.first(length) for draft, length in zip(ordered, lengths, strict=True)]
        return [draft.deep_first() if draft.parents else draft for draft in chosen]

    def learn(self, chunks: Sequence[ScheduledChunk], num_accepted: Sequence[int], took_s: float) -> None:
        num_decodes = sum(chunk.kind is ChunkKind.DECODE for chunk in chunks)
        if not num_decodes:
            return
        outcomes = [
            _outcome(chunk, accepted)
            for chunk, accepted in zip(chunks, num_accepted, strict=True)
            if chunk.draft_token_ids and chunk.draft.kind != FORCED
        ]
        if self._goodput is not None:
            self._goodput.learn(outcomes)
            # Of a step with tokens that a grammar forced nothing is learnt of what drafts cost.
            is_plain = all(chunk.draft.kind != FORCED for chunk in chunks)
            only_decoded = num_decodes == len(chunks) and is_plain
            spent_s = self._pace.spent_s if self._pace is not None else 0.0
            step_s = max(took_s - spent_s - self._waited_s(), 0.0)
            if self._pace is not None:
                self._pace.step_done(outcomes, step_s if only_decoded else None)
            if only_decoded:
                self._goodput.took(num_decodes, sum(one.num_drafts for one in outcomes), step_s)
                if self._rest is not None and self._goodput.times.knows(num_decodes):
                    num_tokens = num_decodes + sum(one.num_accepted for one in outcomes)
                    self._rest.stepped(num_tokens, took_s, self._goodput.times.plain_s(num_decodes))

    def _waited_s(self) -> float:
        """For draft workers, since it was asked last."""
        if self.job_watch is None:
            return 0.0
        before_s, self._told_s = self._told_s, self.job_watch.counts.wait_s
        return self._told_s - before_s


def _outcome(chunk: ScheduledChunk, num_accepted: int) -> Outcome:
    draft = chunk.draft
    tree = draft if draft.parents or draft.kinds else None
    return Outcome(draft.kind, len(draft.token_ids), num_accepted, tree, chunk.right)
