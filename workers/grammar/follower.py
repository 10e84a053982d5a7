"""Where in its grammar one answer is: a matcher of llguidance's, and how many output tokens it has seen.

Invariant: the matcher has seen exactly the first `_num_seen` output tokens whenever a method returns; drafts are tried
and taken back.
"""

from collections.abc import Iterator, Sequence

import llguidance

from baton.errors import BatonError
from workers.engine.draft import NO_DRAFT, Draft
from workers.grammar.compiling import failed


class GrammarFollower:
    """Implements `workers.engine.following.Follower`.

    Args:
        matcher: Its own from now on, at the start of the grammar.
        eos_token_ids: As the matcher's vocabulary has them.
    """

    __slots__ = ("_fault", "_num_seen", "eos_token_ids", "matcher")

    def __init__(self, matcher: llguidance.LLMatcher, eos_token_ids: frozenset[int]) -> None:
        self.matcher = matcher
        self.eos_token_ids = eos_token_ids
        self._num_seen = 0
        self._fault: BatonError | None = None

    def copy(self) -> "GrammarFollower":
        other = GrammarFollower(self.matcher.deep_copy(), self.eos_token_ids)
        other._num_seen, other._fault = self._num_seen, self._fault
        return other

    def sync(self, output_token_ids: Sequence[int]) -> None:
        if len(output_token_ids) == self._num_seen:
            return
        missing = list(output_token_ids[self._num_seen :])
        self._num_seen = len(output_token_ids)
        if not self._tried(missing):
            self.fail(f"it does not allow the tokens {missing} that were written")

    def take(self, token_id: int) -> bool:
        self.check()
        self._num_seen += 1
        if not self._tried([token_id]):
            self.fail(f"it does not allow token {token_id}, or no token of this model goes on with it")
        self.check()
        return self.matcher.is_stopped()

    @property
    def is_complete(self) -> bool:
        return self._fault is None and self.matcher.is_stopped()

    def check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def fail(self, why: BaseException | str) -> None:
        """Of whatever it is asked from now on."""
        self._fault = self._fault or failed(self.matcher.get_error() or why)

    @property
    def has_failed(self) -> bool:
        return self._fault is not None

    def forced(self, output_token_ids: Sequence[int]) -> Sequence[int]:
        self.sync(output_token_ids)
        return () if self._fault is not None else self.matcher.compute_ff_tokens()

    def cut(self, draft: Draft, output_token_ids: Sequence[int]) -> Draft:
        self.sync(output_token_ids)
        if self._fault is not None:
            return NO_DRAFT
        if not draft.parents:
            return draft.first(self._num_allowed(draft.token_ids))
        kept = sorted(place for place in self.walk(draft.token_ids, draft.parents) if place >= 0)
        return draft if len(kept) == len(draft.token_ids) else draft.of(kept)

    def _num_allowed(self, token_ids: Sequence[int]) -> int:
        """Of a path: its first that the grammar allows, up to one that ends the text."""
        most = next((at for at, token in enumerate(token_ids) if token in self.eos_token_ids), len(token_ids))
        return self.matcher.validate_tokens(list(token_ids[:most]))

    def walk(self, token_ids: Sequence[int], parents: Sequence[int]) -> Iterator[int]:
        """The places of a draft that the grammar allows, -1 first; while one is given, the matcher is after it."""
        children: dict[int, list[int]] = {}
        for place, parent in enumerate(parents or range(-1, len(token_ids) - 1)):
            children.setdefault(parent, []).append(place)
        yield from self._walk(-1, token_ids, children)

    def _walk(self, at: int, token_ids: Sequence[int], children: dict[int, list[int]]) -> Iterator[int]:
        yield at
        for place in children.get(at, ()):
            if token_ids[place] not in self.eos_token_ids and self._tried([token_ids[place]]):
                yield from self._walk(place, token_ids, children)
                self.matcher.rollback(1)

    def _tried(self, token_ids: list[int]) -> bool:
        """Whether the matcher could go on by all of them; where not, it has not moved by the last."""
        return self.matcher.try_consume_tokens(token_ids) == len(token_ids)
