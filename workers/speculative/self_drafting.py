"""Drafts of the target itself with some of its layers skipped: no second model, and no KV beside the target's own.

Layers that run have their keys and values of the text in the sequence's blocks. Those of the last token and of drafted
ones go to the places that come next there, where the step that verifies writes the whole model's. So a draft reaches
only as far as the sequence holds blocks.

How many layers are skipped follows what comes of it: of the levels that were measured at the start the one whose drafts
are worth most, by how often their first token was right lately.
"""

import logging
from collections.abc import Hashable
from collections.abc import Sequence as List
from functools import partial

from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.model.layer_subset import LayerSubset
from workers.speculative.draft_model import draft_key
from workers.speculative.layer_choice import Level, gain
from workers.speculative.lines import Line, num_useful, run_pass

logger = logging.getLogger(__name__)
_WEIGHT = 0.02  # of the newest first token, right or wrong
_RETURN = 0.0005  # with each, of what other levels are thought to be: towards what was measured at the start


class SelfDrafter:
    """See `workers.engine.drafting.Drafter`, and `workers.speculative.paced.CostlyDrafter`. Of the engine's thread.

    Args:
        levels: At least one.
        kind: Of its drafts.
    """

    def __init__(self, subset: LayerSubset, levels: List[Level], *, kind: int = 0) -> None:
        self._subset, self._levels, self._kind = subset, levels, kind
        self._rates = [level.agreement for level in levels]
        self._first: dict[Hashable, tuple[int, int, int]] = {}  # of each draft: level, place in the text, token
        self.num_read = 0

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        self.keep(seqs)
        return self.draft(seqs, depth, 0)

    def keep(self, seqs: List[Sequence]) -> None:
        keys = {draft_key(seq) for seq in seqs}
        self._first = {key: first for key, first in self._first.items() if key in keys}

    def can_draft(self, seq: Sequence) -> bool:
        return num_useful(seq, self._subset.runner.max_model_len) > 0

    def num_unread(self, seq: Sequence) -> int:
        """The target has read it."""
        return 0

    def __len__(self) -> int:
        return len(self._first)

    @property
    def level(self) -> int:
        """The one whose drafts are worth most."""
        worth = [gain(rate, level.cost) for rate, level in zip(self._rates, self._levels, strict=True)]
        return worth.index(max(worth))

    def draft(self, seqs: List[Sequence], depth: int, read_at_once: int) -> List[Draft]:
        for seq in seqs:
            self._learn(seq)
        at = self.level
        runner = self._subset.runner
        run = partial(self._subset.run, skipped=self._levels[at].skipped)
        lines = [self._line(seq, depth) for seq in seqs]
        going = [line for line in lines if line.depth > 0]
        while going:
            run_pass(run, going, runner.eos_token_ids)
            going = [line for line in going if line.goes_on]
        for line in lines:
            if line.token_ids:
                self._first[draft_key(line.seq)] = (at, line.seq.num_tokens, line.token_ids[0])
        return [Draft(line.token_ids, self._kind) for line in lines]

    def _line(self, seq: Sequence, depth: int) -> Line:
        """Its first pass is of the last token, whose KV the step will write too."""
        known, runner = seq.num_tokens, self._subset.runner
        held = len(seq.block_ids) * runner.store.block_size - known + 1
        depth = min(depth, held, num_useful(seq, runner.max_model_len))
        return Line(seq, seq.block_ids, known - 1, known, max(depth, 0))

    def _learn(self, seq: Sequence) -> None:
        """Whether the first token of its last draft was right."""
        level, place, token_id = self._first.pop(draft_key(seq), (0, seq.num_tokens, 0))
        if place >= seq.num_tokens:
            return
        is_right = seq.tokens(place, place + 1) == [token_id]
        for other, (rate, one) in enumerate(zip(self._rates, self._levels, strict=True)):
            wanted, weight = (is_right, _WEIGHT) if other == level else (one.agreement, _RETURN)
            self._rates[other] = rate + weight * (wanted - rate)
