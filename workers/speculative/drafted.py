"""One sequence that a draft worker follows, as the worker sees it that decodes it."""

from dataclasses import dataclass

from baton.v1.draft_pb2 import Follow, ToDrafter
from workers.engine.draft import NO_DRAFT, Draft
from workers.engine.sequence import Sequence
from workers.engine.wire import sampling_message
from workers.speculative.draft_link import DOWN, DraftLink
from workers.speculative.futures import Futures


@dataclass(slots=True, eq=False)
class Drafted:
    """One sequence that a draft worker follows.

    Attributes:
        number: Its name on the stream.
        life: Of the link's lives the one that knows it.
        num_told: Tokens that were told.
        futures: The newest guess; changed by the link's thread.
        asked_s: When the text left what was guessed; None: an answer is there.
        is_late: It was waited for in vain, and nothing has come since: perhaps it is not followed any more.
        proposed: What was given to the engine last, and the text's length then.
    """

    number: int
    seq: Sequence
    link: DraftLink
    life: int = DOWN
    num_told: int = 0
    futures: Futures | None = None
    asked_s: float | None = None
    is_late: bool = False
    proposed: tuple[int, Draft] = (0, NO_DRAFT)

    @property
    def is_followed(self) -> bool:
        """By the draft worker, as it is now."""
        return self.life == self.link.life != DOWN

    @property
    def is_awaited(self) -> bool:
        """An answer to the newest news is on its way, as far as is known: there were some before."""
        return self.futures is not None and self.is_followed and not self.is_late

    def draft(self, seq: Sequence, depth: int, width: int, kind: int) -> Draft | None:
        """What is guessed of the text as it is now; None: nothing."""
        futures = self.futures
        if futures is None or not 0 <= seq.num_tokens - futures.base < len(futures):
            return None
        node = futures.after(seq.tokens(futures.base, seq.num_tokens))
        if node is None:
            return None
        if width > 1:
            token_ids, parents, ranks = futures.below(node, depth, width)
            kinds = [kind + min(rank, 1) for rank in ranks]
            return Draft(token_ids, kind, parents, kinds) if token_ids else None
        path = futures.path(node, depth)
        return Draft(path, kind) if path else None

    def follow(self) -> None:
        """Tells all of the sequence to the link's life of now, if there is one."""
        seq, self.life = self.seq, self.link.life
        if self.life == DOWN:
            return
        self.futures = self.asked_s = None  # it is read first
        output = list(seq.output_token_ids)  # it may grow meanwhile
        self.num_told = len(seq.prompt_token_ids) + len(output)
        follow = Follow(
            number=self.number,
            choice=seq.choice,
            prompt_token_ids=seq.prompt_token_ids,
            output_token_ids=output,
            sampling=sampling_message(seq.params),
        )
        self.link.post(self.life, ToDrafter(follow=follow))
