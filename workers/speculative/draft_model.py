"""Drafts of a smaller model with the same vocabulary: it reads what the sequences read, and writes ahead of them.

It samples as the target's sampler does, by the sequence's own parameters, with the noise of the same seed, choice and
position. So where the two models think alike they draw the same token, at any temperature.

One pass over all sequences makes their KV that of the text and gives the first token of each draft; each further token
is one more pass over all that go on. Prompts are read in pieces within a budget, and draft once they are read.
"""

import logging
from collections.abc import Sequence as List
from dataclasses import dataclass, field, replace

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.model.contract import Batch, Chunk, ChunkKind, ModelRunner, Sampled, SampleRow
from workers.model.sampling_params import SamplingParams
from workers.speculative.draft_blocks import DraftBlocks, Followed

logger = logging.getLogger(__name__)
READ_AT_ONCE = 64  # tokens of prompts, of all sequences in one step, which all that decode wait for
CAUGHT_UP = 16  # tokens behind the text, of a sequence that need not wait for its turn to read


@dataclass(slots=True)
class _Line:
    """One sequence in a round."""

    seq: Sequence
    followed: Followed
    start: int  # the first token of the first pass
    end: int  # the last one's end
    depth: int  # tokens to draft; 0: it only reads
    params: SamplingParams
    token_ids: list[int] = field(default_factory=list)  # drafted

    @property
    def goes_on(self) -> bool:
        return len(self.token_ids) < self.depth

    def first_chunk(self) -> Chunk:
        return self._chunk(self.seq.tokens(self.start, self.end), self.start, self.seq.num_tokens)

    def next_chunk(self) -> Chunk:
        """Of the last drafted token."""
        start = self.seq.num_tokens + len(self.token_ids) - 1
        return self._chunk([self.token_ids[-1]], start, start + 1)

    def _chunk(self, token_ids: List[int], start: int, num_tokens: int) -> Chunk:
        return Chunk(
            token_ids=token_ids,
            start=start,
            block_ids=self.followed.block_ids,
            num_sequence_tokens=num_tokens,
            kind=ChunkKind.DECODE if len(token_ids) == 1 else ChunkKind.PREFILL,
        )

    def row(self, chunk: int) -> SampleRow:
        return SampleRow(
            chunk=chunk,
            choice=self.seq.choice,
            params=self.params,
            prompt_token_ids=self.seq.prompt_token_ids,
            output_token_ids=[*self.seq.output_token_ids, *self.token_ids],
        )


class ModelDrafter:
    """See `workers.engine.drafting.Drafter`, and `workers.speculative.paced.CostlyDrafter`. Of one thread.

    Args:
        runner: The draft model's, all of whose blocks are this drafter's.
        kind: Of its drafts.
        keeps_drafted: The model computes drafted tokens as it does those of the text, so that KV of what proved right
            need not be computed again.
    """

    def __init__(self, runner: ModelRunner, *, kind: int = 0, keeps_drafted: bool = True) -> None:
        self._runner = runner
        self._kind = kind
        self._keeps_drafted = keeps_drafted
        self.blocks = DraftBlocks(runner.num_blocks, runner.store.block_size)
        self.num_read = 0  # tokens, in the last round, of sequences that were not caught up
        self._has_failed = False

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        self.keep(seqs)
        return self.draft(seqs, depth, READ_AT_ONCE)

    def keep(self, seqs: List[Sequence]) -> None:
        """Forgets all other sequences."""
        self.blocks.keep({draft_key(seq) for seq in seqs})

    def num_unread(self, seq: Sequence) -> int:
        """Tokens to read before it is drafted for; 0: at once."""
        missing = self._num_missing(seq)
        return missing if missing > CAUGHT_UP else 0

    def _num_missing(self, seq: Sequence) -> int:
        followed = self.blocks.get(draft_key(seq))
        return seq.num_tokens - (followed.num_computed if followed is not None else 0)

    def draft(self, seqs: List[Sequence], depth: int, read_at_once: int) -> List[Draft]:
        """For each sequence its draft, nothing for those that are not read yet.

        Args:
            depth: Tokens of a draft, at most.
            read_at_once: Tokens to read of sequences that are not caught up, all together.
        """
        self.num_read = 0
        if self._has_failed:
            return [Draft()] * len(seqs)
        self.blocks.begin_round()
        lines = self._lines(seqs, depth, read_at_once)
        try:
            self._begin([line for line in lines if line is not None and line.end > line.start])
            while going := [line for line in lines if line is not None and line.token_ids and line.goes_on]:
                self._go_on(going)
        except RuntimeError:  # torch's, of memory too
            logger.exception("the draft model failed; nothing is drafted any more")
            self._has_failed = True
            return [Draft()] * len(seqs)
        return [Draft(line.token_ids, self._kind) if line is not None else Draft() for line in lines]

    def _lines(self, seqs: List[Sequence], depth: int, left: int) -> list[_Line | None]:
        """In the order of `seqs`; those with the least to read are served first. None: a draft would be of no use."""
        lines: list[_Line | None] = [None] * len(seqs)
        useful = [which for which, seq in enumerate(seqs) if self._num_useful(seq) > 0]
        unread = {which: self.num_unread(seqs[which]) for which in useful}
        for which in useful:
            self.blocks.follow(draft_key(seqs[which]))
        for which in sorted(useful, key=lambda which: self._num_missing(seqs[which])):
            line = self._line(seqs[which], depth, min(unread[which], left) if unread[which] else None)
            if unread[which]:
                left -= line.end - line.start
                self.num_read += line.end - line.start
            lines[which] = line
        return lines

    def _line(self, seq: Sequence, depth: int, num_read: int | None) -> _Line:
        """`num_read`: Tokens that may be read now; None: all there are."""
        followed = self.blocks.follow(draft_key(seq))
        known = seq.num_tokens
        followed.settle(seq.tokens(followed.num_known, known), keeps_drafted=self._keeps_drafted)
        start = min(followed.num_computed, known - 1)  # the last token's logits are wanted, whether its KV is there
        end = known if num_read is None else min(start + num_read, known)
        depth = min(depth, self._num_useful(seq)) if end == known else 0
        held = self.blocks.reach(followed, end + max(depth - 1, 0))
        end = min(end, held)
        depth = min(depth, held - known + 1) if end == known else 0
        return _Line(seq, followed, start, end, depth, replace(seq.params, logprobs=None))

    def _num_useful(self, seq: Sequence) -> int:
        """The answer's last token needs no draft."""
        answer = seq.params.max_tokens - len(seq.output_token_ids) - 1
        return min(answer, self._runner.max_model_len - seq.num_tokens)

    def _begin(self, lines: List[_Line]) -> None:
        """The pass that makes KV that of the text."""
        lines = sorted(lines, key=lambda line: line.end - line.start)  # single tokens first
        self._run(lines, [line.first_chunk() for line in lines])
        for line in lines:
            line.followed.num_computed = line.end
            line.followed.num_known = line.seq.num_tokens

    def _go_on(self, lines: List[_Line]) -> None:
        chunks = [line.next_chunk() for line in lines]
        for line in lines:
            line.followed.drafted = tuple(line.token_ids)
        self._run(lines, chunks)

    def _run(self, lines: List[_Line], chunks: List[Chunk]) -> None:
        if not chunks:
            return
        drafting = [index for index, line in enumerate(lines) if line.depth]
        batch = Batch(chunks=chunks, samples=[lines[index].row(index) for index in drafting])
        for index, (sampled,) in zip(drafting, self._runner.run(batch), strict=True):
            self._take(lines[index], sampled)

    def _take(self, line: _Line, sampled: Sampled) -> None:
        line.token_ids.append(sampled.token_id)
        if self._ends(line.params, sampled.token_id):
            line.depth = len(line.token_ids)

    def _ends(self, params: SamplingParams, token_id: int) -> bool:
        is_eos = token_id in self._runner.eos_token_ids and not params.ignore_eos
        return is_eos or token_id in params.stop_token_ids


def draft_key(seq: Sequence) -> tuple[str, int, int]:
    """Of a text that only grows."""
    return (*seq.key, seq.attempt)
