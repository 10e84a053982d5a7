"""What guesses do to one simulated worker: which tokens its steps verify, how many are right, how long steps wait."""

from collections.abc import Sequence

from cluster.contracts.simulation import SimPool
from cluster.simulator.guessers import VOCAB_SIZE, Accepts, Guessing
from workers.engine.scheduler import Drafts, ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats
from workers.model.contract import ChunkKind
from workers.speculative.speculation import DraftedSpeculation

MAX_TOKENS = 64  # of a drafter that says itself how many it guesses


class Drafting:
    """Counted in the worker's statistics.

    Args:
        worker: Index among all.
    """

    def __init__(self, pool: SimPool, stats: EngineStats, *, max_model_len: int, worker: int) -> None:
        self.waited_s = 0.0  # by the step that was planned last, for its drafts
        self._stats = stats
        self._right: dict[tuple[str, int], int] = {}  # of the step that is done
        self._guessing: Guessing | None = None
        self._speculation: DraftedSpeculation | None = None
        self._accepts: Accepts | None = None
        self._max_tokens = pool.drafts.max_tokens if pool.drafts is not None else MAX_TOKENS
        if pool.drafts is not None:
            guessing = self._guessing = Guessing(pool.drafts, worker=worker, max_model_len=max_model_len)
            self._speculation, self._accepts = guessing.speculation, guessing.luck.num_accepted
        elif pool.drafter is not None:
            self._speculation = DraftedSpeculation(
                pool.drafter, max_tokens=MAX_TOKENS, max_model_len=max_model_len, vocab_size=VOCAB_SIZE, clock=float
            )
            self._accepts = pool.drafter.num_accepted

    def limit(self, max_tokens: int | None) -> None:
        """None: as the pool has it."""
        if self._speculation is not None:
            self._speculation.limit(self._max_tokens if max_tokens is None else max_tokens)

    def propose(self, decodes: Sequence[Seq], seqs: Sequence[Seq]) -> Drafts | None:
        """For `seqs`, of all that decode."""
        if self._speculation is None:
            return None
        before_s = self._speculation.drafting_s
        drafts = self._speculation.drafts(seqs, len(decodes))
        self.waited_s = self._speculation.drafting_s - before_s
        return drafts

    def accept(self, chunk: ScheduledChunk) -> int:
        """How many of the chunk's draft tokens are right; once, when its step is done."""
        if not chunk.draft_token_ids:
            return 0
        assert self._accepts is not None, "drafts that nobody proposed"
        num_accepted = self._right[chunk.seq.key] = self._accepts(chunk)
        return num_accepted

    def learn(self, chunks: Sequence[ScheduledChunk], took_s: float) -> None:
        """Of a step that is done, once what it accepted is known."""
        if self._speculation is None:
            return
        right = [self._right.get(chunk.seq.key, 0) if chunk.draft_token_ids else 0 for chunk in chunks]
        self._right.clear()
        self._speculation.learn(chunks, right, took_s)
        drafted = [(chunk.draft.depths, num) for chunk, num in zip(chunks, right, strict=True)]
        num_decodes = sum(chunk.kind is ChunkKind.DECODE for chunk in chunks)
        self._stats.drafted(drafted, num_decodes, took_s, self._speculation.drafting_s)
        if self._guessing is not None:
            self._guessing.step_took(took_s)
