"""Requests that come at random times, whatever became of the last ones, and how each of them went."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any

from tools.soak.ask import Answer, Ask
from tools.soak.bad import BAD
from tools.soak.clients import Clients
from tools.soak.manner import STREAM, draw_manner
from tools.soak.outcome import Outcome

BAD_SHARE = 0.06
MAX_OPEN = 150  # a cluster that is behind by so many is sent no more; counted as held back
BURST = 12  # long prompts at once


class Load:
    """
    Args:
        rate: Arrivals/s in the mean, of a Poisson process.
        told: Of each outcome, once.
    """

    def __init__(
        self,
        clients: Clients,
        asks: Sequence[Ask],
        known: Mapping[int, Answer],
        *,
        seed: int,
        rate: float,
        told: Callable[[Outcome], None],
    ) -> None:
        self._clients = clients
        self._asks = [ask for ask in asks if ask.number in known]
        self._known = known
        self._rng = Random(f"load {seed}")
        self._rate = rate
        self._told = told
        self._open: set[asyncio.Task[None]] = set()
        self.num_held_back = 0

    @property
    def num_open(self) -> int:
        return len(self._open)

    async def run(self, duration_s: float) -> None:
        """Sends for so long; what is open then goes on, see `drained`."""
        loop = asyncio.get_running_loop()
        begin_s = next_s = loop.time()
        while (next_s := next_s + self._rng.expovariate(self._rate)) < begin_s + duration_s:
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            self._arrive()

    def burst(self) -> None:
        """Long prompts, all at once."""
        long = [ask for ask in self._asks if ask.family in ("long", "shared")] or self._asks
        for ask in self._rng.choices(long, k=BURST):
            self._begin(self._ask(ask, stream=True))

    async def drained(self) -> None:
        """Every request has a limit of its own."""
        while self._open:
            await asyncio.wait(self._open)

    def _arrive(self) -> None:
        if self.num_open >= MAX_OPEN:
            self.num_held_back += 1
        elif self._rng.random() < BAD_SHARE:
            self._begin(self._bad())
        else:
            self._begin(self._ask(self._rng.choice(self._asks)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._open.discard(task)
        task.result()  # a bug of ours is not to pass unseen

    async def _ask(self, ask: Ask, *, stream: bool = False) -> None:
        manner = STREAM if stream else draw_manner(self._rng, ask)
        outcome, _ = await self._clients.ask(ask, manner, self._known[ask.number])
        self._told(outcome)

    async def _bad(self) -> None:
        self._told(await self._clients.bad(self._rng.choice(BAD)))
