"""Who guesses how simulated sequences go on: tokens that cost nothing, those of a draft model here, or elsewhere.

What is guessed is as alike as all tokens here; how much of it is right goes by chances, and what it takes by a latency
model, on a watch of its own. How deep to draft and how much to verify is production's to choose.
"""

from collections.abc import Callable, Sequence
from random import Random

from cluster.contracts.latency import LatencyModel, PromptChunk
from cluster.contracts.simulation import SimDrafts
from workers.engine.drafting import Draft, Drafter
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.speculative.goodput import Goodput
from workers.speculative.pace import Pace
from workers.speculative.paced import PacedDrafter
from workers.speculative.speculation import DraftedSpeculation

CAUGHT_UP = 16  # tokens behind the text, of a sequence that need not be read first
VOCAB_SIZE = 1  # what a token is does not matter


class Watch:
    """Seconds that drafting has taken."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Luck:
    """How much of a draft is right."""

    def __init__(self, drafts: SimDrafts, rng: Random) -> None:
        self._chances, self._rng = drafts.chances, rng

    def num_accepted(self, chunk: ScheduledChunk) -> int:
        """Of the chunk's draft tokens; drawn anew with each call."""
        for place in range(len(chunk.draft_token_ids)):
            if self._rng.random() >= self._chances.at(place):
                return place
        return len(chunk.draft_token_ids)

    def foresees(self) -> bool:
        """Whether the token after a draft is the one that a draft model thought likeliest."""
        return self._rng.random() < self._chances.at(0)


class FreeGuesser:
    """Guesses from the text."""

    def propose(self, seqs: Sequence[Seq], depth: int) -> list[Draft]:
        return [Draft([0] * depth)] * len(seqs)


class ModelGuesser:
    """A draft model in the worker itself, for which each step waits. See `workers.speculative.paced.CostlyDrafter`."""

    def __init__(self, latency: LatencyModel, watch: Watch, kind: int) -> None:
        self.num_read = 0
        self._latency, self._watch, self._kind = latency, watch, kind
        self._known: dict[tuple[str, int, int], int] = {}  # tokens whose KV the draft model has

    def keep(self, seqs: Sequence[Seq]) -> None:
        keys = {_key(seq) for seq in seqs}
        self._known = {key: known for key, known in self._known.items() if key in keys}

    def can_draft(self, seq: Seq) -> bool:
        return True

    def num_unread(self, seq: Seq) -> int:
        missing = seq.num_tokens - self._known.get(_key(seq), 0)
        return missing if missing > CAUGHT_UP else 0

    def draft(self, seqs: Sequence[Seq], depth: int, read_at_once: int) -> list[Draft]:
        self.num_read = 0
        prompts, ready = [], []
        for seq in sorted(seqs, key=self.num_unread):
            known = self._known.get(_key(seq), 0)
            unread = self.num_unread(seq)
            num_now = min(unread, read_at_once - self.num_read) if unread else seq.num_tokens - known
            if num_now:
                prompts.append(PromptChunk(num_now, known))
                self._known[_key(seq)] = known + num_now
            self.num_read += num_now if unread else 0
            if self._known.get(_key(seq), 0) == seq.num_tokens:
                ready.append(seq)
        self._pass(prompts, ready, depth)
        drafted = {_key(seq) for seq in ready}
        return [Draft([0] * depth, self._kind) if _key(seq) in drafted else Draft() for seq in seqs]

    def _pass(self, prompts: Sequence[PromptChunk], ready: Sequence[Seq], depth: int) -> None:
        """The first pass makes KV that of the text and gives a token; each further token is another one."""
        if prompts:
            self._watch.now_s += self._latency.step_s(prompts, 0, 0)
        num_context = sum(seq.num_tokens for seq in ready)
        if ready and depth > 1:
            self._watch.now_s += self._latency.decode_steps_s(len(ready), num_context, depth - 1)


class AheadGuesser:
    """Draft workers, which guess while the step before is computed: nobody waits for them.

    There are as many tokens as were drafted meanwhile, of sequences whose last token had been foreseen.
    """

    def __init__(self, drafts: SimDrafts, luck: Luck, kind: int) -> None:
        self.step_s = 0.0  # of the last step
        self._latency, self._luck, self._kind = drafts.latency, luck, kind
        self._num_sharing = drafts.num_sharing

    def propose(self, seqs: Sequence[Seq], depth: int) -> list[Draft]:
        num_seqs = round(len(seqs) * self._num_sharing)
        assert self._latency is not None, "draft workers have a model"
        context = round(sum(seq.num_tokens for seq in seqs) * self._num_sharing)
        pass_s = self._latency.step_s((), max(num_seqs, 1), context)
        num_drafted = min(depth, int(self.step_s / pass_s)) if pass_s > 0 else depth
        return [Draft([0] * num_drafted, self._kind) if self._luck.foresees() else Draft() for _ in seqs]


class Guessing:
    """One worker's: production's choices over a guesser.

    Args:
        worker: Index among all.
    """

    def __init__(self, drafts: SimDrafts, *, worker: int, max_model_len: int) -> None:
        self.luck = Luck(drafts, Random(f"drafts {worker}"))
        watch, goodput = Watch(), Goodput(drafts.max_tokens)
        self._ahead: AheadGuesser | None = None
        pace = None
        drafter: Drafter
        if drafts.latency is None:
            drafter = FreeGuesser()
        elif drafts.is_remote:
            drafter = self._ahead = AheadGuesser(drafts, self.luck, 0)
        else:
            pace = Pace(goodput, kind=0, max_tokens=drafts.max_tokens)
            drafter = PacedDrafter(ModelGuesser(drafts.latency, watch, 0), pace, goodput.acceptance, clock=watch)
        self.speculation = DraftedSpeculation(
            drafter,
            max_tokens=drafts.max_tokens,
            max_model_len=max_model_len,
            vocab_size=VOCAB_SIZE,
            goodput=goodput,
            pace=pace,
            clock=watch,
        )

    def step_took(self, took_s: float) -> None:
        if self._ahead is not None:
            self._ahead.step_s = took_s


Accepts = Callable[[ScheduledChunk], int]


def _key(seq: Seq) -> tuple[str, int, int]:
    return (*seq.key, seq.attempt)
