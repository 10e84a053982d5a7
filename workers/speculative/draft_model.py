"""Drafts of a smaller model with the same vocabulary: it reads what the sequences read, and writes ahead of them.

It samples as the target's sampler does, by the sequence's own parameters, with the noise of the same seed, choice and
position. So where the two models think alike they draw the same token, at any temperature.

One pass over all sequences makes their KV that of the text and gives the first token of each draft; each further token
is one more pass over all that go on. Prompts are read in pieces within a budget, and draft once they are read.
"""

import logging
from collections.abc import Sequence as List

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.model.contract import ModelRunner
from workers.speculative.draft_blocks import DraftBlocks
from workers.speculative.lines import Line, num_useful, run_pass

logger = logging.getLogger(__name__)
READ_AT_ONCE = 64  # tokens of prompts, of all sequences in one step, which all that decode wait for
CAUGHT_UP = 16  # tokens behind the text, of a sequence that need not wait for its turn to read


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

    def can_draft(self, seq: Sequence) -> bool:
        return num_useful(seq, self._runner.max_model_len) > 0

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
            while going := [line for line in lines if line is not None and line.goes_on]:
                self._go_on(going)
        except (RuntimeError, MemoryError):  # torch's, of memory too, and that of kernels in C
            logger.exception("the draft model failed; nothing is drafted any more")
            self._has_failed = True
            return [Draft()] * len(seqs)
        return [Draft(line.token_ids, self._kind) if line is not None else Draft() for line in lines]

    def _lines(self, seqs: List[Sequence], depth: int, left: int) -> list[Line | None]:
        """In the order of `seqs`; those with the least to read are served first. None: a draft would be of no use."""
        lines: list[Line | None] = [None] * len(seqs)
        useful = [which for which, seq in enumerate(seqs) if self.can_draft(seq)]
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

    def _line(self, seq: Sequence, depth: int, num_read: int | None) -> Line:
        """`num_read`: Tokens that may be read now; None: all there are."""
        followed = self.blocks.follow(draft_key(seq))
        known = seq.num_tokens
        followed.settle(seq.tokens(followed.num_known, known), keeps_drafted=self._keeps_drafted)
        start = min(followed.num_computed, known - 1)  # the last token's logits are wanted, whether its KV is there
        end = known if num_read is None else min(start + num_read, known)
        depth = min(depth, num_useful(seq, self._runner.max_model_len)) if end == known else 0
        held = self.blocks.reach(followed, end + max(depth - 1, 0))
        end = min(end, held)
        return Line(seq, followed.block_ids, start, end, min(depth, held - known + 1) if end == known else 0)

    def _begin(self, lines: List[Line]) -> None:
        """The pass that makes KV that of the text."""
        if not lines:
            return
        run_pass(self._runner.run, lines, self._runner.eos_token_ids)
        for line in lines:
            followed = self.blocks.follow(draft_key(line.seq))
            followed.num_computed, followed.num_known = line.end, line.seq.num_tokens

    def _go_on(self, lines: List[Line]) -> None:
        for line in lines:
            self.blocks.follow(draft_key(line.seq)).drafted = tuple(line.token_ids)
        run_pass(self._runner.run, lines, self._runner.eos_token_ids)


def draft_key(seq: Sequence) -> tuple[str, int, int]:
    """Of a text that only grows."""
    return (*seq.key, seq.attempt)
