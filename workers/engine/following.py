"""Answers that follow a grammar, as the engine sees them: who compiles it, who follows it, what a step may sample.

Invariant: what a follower says is a function of its grammar and of the output tokens alone, so an answer is the same
wherever its parts are written: handed over, preempted, tried again, forked, with drafts and without.
Implementation: `workers.grammar`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from baton.errors import BatonError
from workers.engine.draft import Draft
from workers.model.contract import SampleRow, TokenMasks

MAX_FORCED = 64  # tokens in a row that one step takes of what a grammar forces


class Follower(Protocol):
    """Where in its grammar one answer is. Of the engine's thread, but while masks of it are being made."""

    eos_token_ids: frozenset[int]  # each ends the answer, where the masks allow it

    def copy(self) -> "Follower": ...

    def sync(self, output_token_ids: Sequence[int]) -> None:
        """Goes on to the end of these: those that it has seen before, and any that follow. Never raises."""
        ...

    def take(self, token_id: int) -> bool:
        """Goes on by a token that is no end of the text; whether the grammar allows nothing after it.

        Raises: BatonError: the grammar is of no use any more, or does not allow the token: this answer must end.
        """
        ...

    @property
    def is_complete(self) -> bool:
        """The grammar allows nothing more."""
        ...

    def check(self) -> None:
        """Raises: BatonError: something that was asked before has failed."""
        ...

    def forced(self, output_token_ids: Sequence[int]) -> Sequence[int]:
        """The tokens that follow these whatever the model says."""
        ...

    def cut(self, draft: Draft, output_token_ids: Sequence[int]) -> Draft:
        """Without the tokens that the grammar forbids after these outputs, and all that follow such."""
        ...


class Grammars(Protocol):
    """One worker's. `follower` and `masks` are for the engine's thread."""

    def follower(self, text: str, done: Callable[[Follower | BatonError], None]) -> Follower | BatonError | None:
        """At the start of the grammar, or why there is none; None: it is being compiled, and `done` will be called.

        Args:
            done: Called once, from another thread.
        """
        ...

    def masks(self, rows: Sequence[SampleRow], followers: Sequence[Follower | None]) -> TokenMasks | None:
        """Of the rows whose follower is one; begins to make them, beside whatever the caller does next."""
        ...
