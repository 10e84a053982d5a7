"""One ingress replica's share of one key's limits.

A request takes from what the replica holds; only where that is used up is the ledger asked. What it holds beyond what
runs is bounded: an eighth of a limit between all replicas, so that one of them never starves for what others keep.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

from baton.errors import RateLimitError
from cluster.config.api_key import APIKey, KeyLimits
from cluster.doors.budget import Ask, Grant

SPARE_PARTS = 8
SHUT_S = 0.05  # after the ledger has refused: one client that asks on and on is not passed on to the controller
SETTLE_S = 1.0  # what is held of a rate is used within it, or given back: the ledger counts it when it is given

Draw = Callable[[Ask], Awaitable[Grant]]

_WORDS = {
    "max_concurrent": "requests at once",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
}


class Share:
    """Used on one event loop.

    Args:
        replica: Its name for the ledger.
        num_replicas: That share; 1: the ledger is this process's.
    """

    def __init__(self, key: APIKey, draw: Draw, *, replica: str, num_replicas: int) -> None:
        self.limits = key.limits
        self.num_running = 0
        self._name = key.name
        self._draw = draw
        self._replica = replica
        self._parts = SPARE_PARTS * num_replicas if num_replicas > 1 else 0
        self._turn = asyncio.Lock()
        self._slots = 0
        self._requests = 0
        self._tokens = 0  # below 0: owed
        self._is_unsure = False  # the ledger was asked, and its answer has not come: its client has left meanwhile
        self._shut: RateLimitError | None = None
        self._shut_until_s = 0.0

    async def take(self) -> None:
        """A place for one request. Raises: RateLimitError: a limit is used up; nothing was taken."""
        if not self._has_room():
            self._check_shut()
            async with self._turn:
                if not self._has_room():
                    self._check_shut()
                    await self._draw_more()
        self.num_running += 1
        if self.limits.requests_per_minute is not None:
            self._requests -= 1

    def use_tokens(self, count: int) -> None:
        if self.limits.tokens_per_minute is not None:
            self._tokens -= count

    def leave(self) -> bool:
        """A request has ended. Whether `pay` is due now: something is owed, or more is held than may be."""
        self.num_running -= 1
        return self._tokens < 0 or self._slots - self.num_running > self._spare(self.limits.max_concurrent)

    async def pay(self) -> None:
        """For what was used beyond what was given, and in advance for the next request; places beyond the bound go."""
        async with self._turn:
            spare = self._spare(self.limits.max_concurrent)
            self._slots = min(self._slots, self.num_running + spare)
            await self._ask(tokens=1 + self._spare(self.limits.tokens_per_minute) if self._tokens < 0 else 0)

    async def settle(self) -> None:
        """Pays, gives back all that is not in use, and says that the rest is; every SETTLE_S while anything is held."""
        async with self._turn:
            requests, tokens = self._requests, max(0, self._tokens)
            self._requests, self._tokens = 0, self._tokens - tokens
            self._slots = min(self._slots, self.num_running)
            await self._ask(requests=-requests, tokens=-tokens)

    @property
    def is_idle(self) -> bool:
        """Nothing is held, runs or is owed, and the ledger knows it."""
        return not (self.num_running or self._slots or self._tokens or self._requests or self._is_unsure)

    def _has_room(self) -> bool:
        limits = self.limits
        return (
            (limits.max_concurrent is None or self.num_running < self._slots)
            and (limits.requests_per_minute is None or self._requests > 0)
            and (limits.tokens_per_minute is None or self._tokens > 0)
        )

    def _check_shut(self) -> None:
        """Raises: RateLimitError: what the ledger said a moment ago."""
        if self._shut is not None and asyncio.get_running_loop().time() < self._shut_until_s:
            raise RateLimitError(self._shut.message, retry_after_s=self._shut.retry_after_s)

    async def _draw_more(self) -> None:
        limits = self.limits
        wants_requests = limits.requests_per_minute is not None and self._requests <= 0
        wants_tokens = limits.tokens_per_minute is not None and self._tokens <= 0
        grant = await self._ask(
            min_slots=self.num_running + 1 if limits.max_concurrent is not None else 0,
            requests=1 + self._spare(limits.requests_per_minute) if wants_requests else 0,
            tokens=1 + self._spare(limits.tokens_per_minute) if wants_tokens else 0,
        )
        if grant.lacks:
            refusal = RateLimitError(_message(self._name, limits, grant), retry_after_s=grant.retry_after_s)
            if self._parts and grant.lacks != "max_concurrent":  # a place may be free again at any moment
                self._shut, self._shut_until_s = refusal, asyncio.get_running_loop().time() + SHUT_S
            raise refusal

    async def _ask(self, *, requests: int = 0, tokens: int = 0, min_slots: int = 0) -> Grant:
        """Pays what is owed too."""
        self._shut = None
        owed = max(0, -self._tokens)
        self._tokens += owed
        wanted = self.num_running + max(1, self._spare(self.limits.max_concurrent)) if min_slots else 0
        ask = Ask(
            replica=self._replica,
            name=self._name,
            limits=self.limits,
            slots=max(self._slots, wanted),
            min_slots=min_slots,
            requests=requests,
            tokens=tokens,
            owed_tokens=owed,
        )
        self._is_unsure = True
        grant = await self._draw(ask)
        self._is_unsure = False
        self._slots = grant.slots
        self._requests += grant.requests
        self._tokens += grant.tokens
        return grant

    def _spare(self, limit: int | None) -> int:
        """How much may be held beyond what is used."""
        return limit // self._parts if limit is not None and self._parts else 0


def _message(name: str, limits: KeyLimits, grant: Grant) -> str:
    return (
        f"the API key {name} may have {getattr(limits, grant.lacks)} {_WORDS[grant.lacks]}; try again in "
        f"{max(1, math.ceil(grant.retry_after_s))} s"
    )
