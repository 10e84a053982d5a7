"""What a step gave, told to those who wait for it: how likely prompts are, tokens, ends.

Invariant: of a job either all that a step gave is told, or an error in place of it. What becomes of the job then is
`Serving`'s to say; when messages leave, the engine's.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from baton.errors import BatonError, InternalError
from baton.v1.worker_pb2 import TokenOutput, WorkerTrace
from workers.engine import wire
from workers.engine.batching import cut, writes_nothing
from workers.engine.draft import FORCED
from workers.engine.job_trace import JobTrace
from workers.engine.jobs import Job, Written
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import FinishReason
from workers.engine.sequence import Sequence as Seq
from workers.engine.serving import Serving
from workers.model.contract import Batch, ChunkKind, ModelRunner, Sampled


class Answers:
    """
    Args:
        tell: An ingress id, and an output for it.
    """

    def __init__(self, *, runner: ModelRunner, serving: Serving, tell: Callable[[str, TokenOutput], None]) -> None:
        self._runner = runner
        self._serving = serving
        self._stats = serving.stats
        self._tell = tell

    def take(
        self,
        batch: Batch,
        chunks: Sequence[ScheduledChunk],
        jobs: Sequence[Job | None],
        owners: Sequence[tuple[int, int]],
        sampled: Sequence[Sequence[Sampled]],
    ) -> None:
        """After a step, whose chunks are computed.

        Args:
            chunks, jobs: Of the batch's chunks; None: the job has ended meanwhile.
            owners: Of each row of `sampled`: (index of the job, choice).
        """
        if batch.chunks[-1].kind is ChunkKind.PREFILL:  # decodes come first
            self._take_prompts(batch, jobs)
        tokens: dict[int, list[tuple[int, Sequence[Sampled]]]] = defaultdict(list)
        for (index, choice), run in zip(owners, sampled, strict=True):
            tokens[index].append((choice, run))
        for index, news in tokens.items():
            if (job := jobs[index]) is not None:
                self._accept(job, news, num_drafted(chunks[index]))

    def _take_prompts(self, batch: Batch, jobs: Sequence[Job | None]) -> None:
        """Tells what is known of prompts, and ends those that were to be read and no more."""
        for row in batch.prompts:
            if (job := jobs[row.chunk]) is not None:
                for message in wire.prompt_news(job.seq, row, batch.chunks[row.chunk].start):
                    self._tell(job.seq.ingress_id, message)
        for job in jobs:
            if job is not None and writes_nothing(job.seq) and not job.seq.num_uncomputed_tokens:
                self._end_read(job)

    def _end_read(self, job: Job) -> None:
        seq = job.seq
        for choice in job.choices:
            message = wire.final(seq, choice, FinishReason.LENGTH)
            message.num_cached_tokens = min(seq.num_cached_tokens, len(seq.prompt_token_ids))
            self._tell(seq.ingress_id, message)
        self._count_prefix(seq)
        self._serving.finish(job)

    def _count_prefix(self, seq: Seq) -> None:
        self._stats.num_prefix_hit_tokens += seq.num_cached_tokens
        if self._serving.blocks.prefix_cache:
            self._stats.num_prefix_query_tokens += seq.num_tokens

    def _accept(self, job: Job, news: Sequence[tuple[int, Sequence[Sampled]]], num_drafted: int) -> None:
        """Tells the tokens of each choice, and goes on with those that are not done."""
        seq = job.seq
        written: list[Written] = []
        messages: list[TokenOutput] = []
        forks = len(news) > 1
        for choice, sampled in news:
            if seq.params.logprobs is not None and any(math.isnan(token.logprob or 0.0) for token in sampled):
                self._serving.end(job, InternalError("the model's output is no number: are its weights whole?"))
                return
            try:
                run, end = cut(seq, sampled, self._runner, forks)
            except BatonError as error:  # of its grammar: nobody else's
                self._serving.end(job, error)
                return
            token_ids = [token.token_id for token in run]
            message = wire.output(seq, choice, token_ids, run, end)
            if not job.cached_reported:
                message.num_cached_tokens = min(seq.num_cached_tokens, len(seq.prompt_token_ids))
            if num_drafted:
                message.num_drafted = num_drafted
            messages.append(message)
            if end is not None and end.is_after:
                messages.append(wire.end_after(message, end))
            written.append(Written(choice, token_ids, end is not None))
            self._stats.num_output_tokens += len(run)
        if job.trace is not None:
            messages[0].trace.CopyFrom(self._told(job, job.trace))
            job.trace = None
        for message in messages:
            self._tell(seq.ingress_id, message)
        if not job.cached_reported:
            self._count_prefix(seq)
            job.cached_reported = True
        self._serving.advance(job, written)

    def _told(self, job: Job, trace: JobTrace) -> WorkerTrace:
        num_bytes = 0
        if trace.arrived_s is not None:
            num_tokens, num_cached = trace.num_came_tokens, job.seq.num_cached_tokens
            num_bytes = self._runner.kv_shares * sum(
                spec.unit_nbytes * (spec.num_final(num_tokens, num_tokens) - spec.num_cached(num_cached))
                for spec in self._runner.store.payloads
            )
        return trace.message(job.seq.arrived_s, num_bytes)


def num_drafted(chunk: ScheduledChunk) -> int:
    """Guesses that a step checked; what a grammar forces is none."""
    return 0 if chunk.draft.kind == FORCED else len(chunk.draft.token_ids)
