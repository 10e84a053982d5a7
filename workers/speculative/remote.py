"""Drafts of draft workers: what they said of a sequence's future, as far as the text has gone that way.

The engine's thread only looks into a table that the links fill, and tells them after each step what was written. Where
nothing is known it may wait a little, if that pays (`patience`), and else takes what another drafter has. A draft
worker that is late, dead or refuses takes nothing away but its guesses.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass

from baton.v1.draft_pb2 import DraftHello, Guess, News, ToDrafter, Written
from baton.v1.worker_pb2 import DraftRoute
from workers.engine.draft import NO_DRAFT, Draft
from workers.engine.drafting import Drafter
from workers.engine.sequence import Sequence
from workers.engine.stats import GuessCounts
from workers.spec import WorkerSpec
from workers.speculative.draft_link import DOWN, DraftLink
from workers.speculative.drafted import Drafted
from workers.speculative.futures import Futures
from workers.speculative.goodput import Goodput
from workers.speculative.growing import MOST_SEQS
from workers.speculative.patience import ANSWER_TOKENS, Patience
from workers.speculative.rest import Rest

CHECK_S = 1.0
MAX_PATIENCE_S = 0.25
MIN_STEP_S = 1e-6  # where a clock stood still
MOST_LONGER = 2.0  # steps that took longer by more were disturbed, or read prompts too


class RemoteDrafter:
    """See `workers.engine.drafting.Drafter` and `JobWatch`.

    Args:
        width: Siblings in a draft, at most, with up to `MOST_SEQS` sequences; 1: single paths.
        fallback: Drafts where no guess is there, or none as likely.
        goodput: How likely drafts of each kind are, and what steps take without any.
        kind: Of its drafts; the next one is of the runners-up of trees.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        vocab_size: int,
        width: int,
        fallback: Drafter,
        goodput: Goodput,
        kind: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = GuessCounts()
        self.patience = Patience()
        self.rest = Rest()
        num_tokens = spec.speculation.max_tokens
        self._secret = spec.secret
        self._hello = DraftHello(
            worker_id=spec.worker_id,
            incarnation=uuid.uuid4().hex[:8],
            vocab_size=vocab_size,
            num_tokens=num_tokens,
            no_overlap=not spec.draft_overlap,
        )
        self._fallback, self._goodput = fallback, goodput
        self._kind, self._clock = kind, clock
        self._answer = min(num_tokens, ANSWER_TOKENS)
        self._width = width
        self._links: dict[str, DraftLink] = {}  # by worker id
        self._drafted: dict[tuple[str, int], Drafted] = {}  # by the sequence's key; the engine's thread
        self._news = threading.Condition()  # guards what follows, and what each `Drafted` says of its link
        self._by_number: dict[int, Drafted] = {}
        self._num_numbers = 0
        self._stepped_s: float | None = None
        self._has_rested = False  # draft workers were told nothing since
        self._num_decodes = 0  # of the last step
        self._checked_s = 0.0

    # Jobs coming and going, from the engine's thread.

    def begins(self, seq: Sequence, route: DraftRoute) -> None:
        """A sequence that will decode here; its prompt may not be here yet."""
        if not seq.params.speculation:
            return
        self._num_numbers += 1
        drafted = self._drafted[seq.key] = Drafted(self._num_numbers, seq, self._link(route))
        with self._news:
            self._by_number[drafted.number] = drafted
            if not self.rest.rests_at(len(self._drafted)):
                drafted.follow()

    def ends(self, key: tuple[str, int]) -> None:
        """It is not decoded here any more, if it was drafted for."""
        drafted = self._drafted.pop(key, None)
        if drafted is None:
            return
        with self._news:
            del self._by_number[drafted.number]
            drafted.link.post(drafted.life, ToDrafter(news=News(forgotten=[drafted.number])))

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    def _link(self, route: DraftRoute) -> DraftLink:
        link = self._links.get(route.worker_id)
        if link is None:
            link = self._links[route.worker_id] = DraftLink(
                route.worker_id,
                route.address,
                hello=self._hello,
                secret=self._secret,
                on_up=self._up,
                on_guesses=self._take,
            )
        link.move(route.address)
        return link

    # A step.

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        backup = self._fallback.propose(seqs, depth)
        self.counts.draft_workers_rest = self.rest.is_resting
        self.rest.is_served = any(drafted.link.life != DOWN for drafted in self._drafted.values())
        if not self._links:
            return backup
        now_s = self._clock()
        self._check(now_s)
        if not self._drafted or self.rest.is_resting:
            self._stepped_s, self.rest.is_reading = None, False
            self._has_rested |= self.rest.is_resting
            return backup
        if self._has_rested:
            self._wake()
        took_s = now_s - self._stepped_s if self._stepped_s is not None else None
        if took_s is not None:
            self.patience.stepped(took_s)
        asked = [
            _Asked(which, seq, drafted) for which, seq in enumerate(seqs) if (drafted := self._drafted.get(seq.key))
        ]
        if took_s is not None:
            self._prove(asked, took_s)
        self._num_decodes = len(seqs)
        self._tell(asked)
        found = self._look(asked, depth, num_decodes=len(seqs))
        num_read = sum(one.drafted.futures is not None for one in asked)
        self.rest.is_reading = 2 * num_read < len(asked)
        self._stepped_s = self._clock()
        return [self._likelier(found.get(which), draft) for which, draft in enumerate(backup)]

    def _wake(self) -> None:
        """Draft workers hear of what began meanwhile; what was written is told as always."""
        self._has_rested = False
        with self._news:
            for drafted in self._by_number.values():
                drafted.proposed, drafted.asked_s, drafted.futures = (0, NO_DRAFT), None, None
                if not drafted.is_followed:
                    drafted.follow()

    def _likelier(self, guess: Draft | None, other: Draft) -> Draft:
        """Of which more tokens are expected to be right."""
        if guess is None or not other.token_ids:
            return guess or other
        return guess if sum(self._goodput.acceptance.of(guess)) >= sum(self._goodput.acceptance.of(other)) else other

    def _prove(self, asked: List["_Asked"], took_s: float) -> None:
        """What the last step's guesses were worth: tokens that were right, less those that the time to verify them
        would have given."""
        proved = [one for one in asked if one.drafted.proposed[1].token_ids]
        if not proved:
            return
        lost, times = 0.0, self._goodput.times
        if times.knows(self._num_decodes):
            longer = took_s / max(times.expected_s(self._num_decodes, 0)[0], MIN_STEP_S) - 1
            lost = self._num_decodes * min(max(longer, 0.0), MOST_LONGER)
        self.patience.proved((sum(one.num_right for one in proved) - lost) / len(proved))

    def _tell(self, asked: List["_Asked"]) -> None:
        """The draft workers of what was written, in one message each; of what began while they were to rest, all."""
        news: dict[DraftLink, list[Written]] = defaultdict(list)
        with self._news:
            for drafted in (one.drafted for one in asked):
                seq, start = drafted.seq, drafted.num_told
                if not drafted.is_followed:
                    drafted.follow()
                elif seq.num_tokens > start:
                    drafted.num_told = seq.num_tokens
                    tokens = seq.tokens(start, seq.num_tokens)
                    news[drafted.link].append(Written(number=drafted.number, start=start, token_ids=tokens))
            for link, written in news.items():
                link.post(link.life, ToDrafter(news=News(written=written)))

    def _look(self, asked: List["_Asked"], depth: int, num_decodes: int) -> dict[int, Draft]:
        """What is known of each; waits for what is missing, if that pays."""
        with self._news:
            found = self._known(asked, depth)
            missing = [one for one in asked if one.which not in found and one.drafted.is_awaited]
            self.counts.num_hits += len(found)
            self.counts.num_misses += len(asked) - len(found)
            patience_s = min(self.patience.wait_s(len(missing), num_decodes), MAX_PATIENCE_S)
            if patience_s:
                self._wait(missing, patience_s)
                found |= self._known(missing, depth)
        return found

    def _known(self, asked: List["_Asked"], depth: int) -> dict[int, Draft]:
        """With `_news` held."""
        found: dict[int, Draft] = {}
        width = self._width if self._num_decodes <= MOST_SEQS else 1
        for one in asked:
            draft = one.drafted.draft(one.seq, depth, width, self._kind)
            one.drafted.proposed = (one.seq.num_tokens, draft or NO_DRAFT)
            if draft is None:
                one.drafted.asked_s = one.drafted.asked_s or self._clock()
            else:
                found[one.which] = draft
                one.drafted.asked_s = None
        return found

    def _wait(self, missing: List["_Asked"], patience_s: float) -> None:
        """Until a guess of each is there, or for so long."""
        began_s = self._clock()
        answered = self._news.wait_for(lambda: all(one.drafted.asked_s is None for one in missing), patience_s)
        took_s = self._clock() - began_s
        self.counts.num_waits += 1
        self.counts.wait_s += took_s
        if not answered:
            self.patience.gave_up(took_s)
            for one in missing:
                one.drafted.is_late = one.drafted.asked_s is not None

    def _check(self, now_s: float) -> None:
        if now_s - self._checked_s >= CHECK_S:
            self._checked_s = now_s
            for link in self._links.values():
                link.check()
            self.counts.num_peers = sum(link.life != DOWN for link in self._links.values())

    # News, from a link's thread.

    def _up(self, link: DraftLink) -> None:
        """It follows nothing yet."""
        with self._news:
            for drafted in self._by_number.values():
                if drafted.link is link and not self.rest.is_resting:
                    drafted.follow()

    def _take(self, guesses: List[Guess]) -> None:
        """Raises: ValueError: One is no tree."""
        now_s = self._clock()
        news = [(guess.number, Futures(guess.base, guess.token_ids, guess.parents)) for guess in guesses]
        with self._news:
            for number, futures in news:
                drafted = self._by_number.get(number)
                if drafted is None:
                    continue
                was_awaited = drafted.is_awaited  # else it was read first, or had lost its place
                drafted.futures, drafted.is_late = futures, False
                if drafted.asked_s is not None and self._is_answer(drafted, futures):
                    if was_awaited:
                        self.patience.answered(now_s - drafted.asked_s)
                    drafted.asked_s = None
            self._news.notify_all()

    def _is_answer(self, drafted: Drafted, futures: Futures) -> bool:
        """To the newest news, and long enough to have been worth a wait."""
        return futures.base >= drafted.num_told and futures.is_deep(self._answer)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sequence of a step that is drafted for; `which` of the step's."""

    which: int
    seq: Sequence
    drafted: Drafted

    @property
    def num_right(self) -> int:
        """Tokens that the last step wrote because they had been proposed: all but its last, as far as they are."""
        length, draft = self.drafted.proposed
        written = self.seq.tokens(length, self.seq.num_tokens)
        return len(draft.follow(written[:-1]))
