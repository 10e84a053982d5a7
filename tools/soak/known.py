"""Takes the known answers: one request at a time on an idle cluster, then all again beside each other."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.soak.ask import Answer, Ask, difference
from tools.soak.clients import Clients
from tools.soak.manner import STREAM, WHOLE
from tools.soak.outcome import Ending

AT_ONCE = 6
logger = logging.getLogger(__name__)


class UnknownError(Exception):
    """A request was not answered on a cluster where nothing happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """
    Attributes:
        answers: By the ask's number; only those that came the same again, and have an end that does not depend on
            how they are delivered.
        unsteady: What differed, of those that did not.
        rate: Requests/s of the second pass, AT_ONCE of them open.
    """

    answers: Mapping[int, Answer]
    unsteady: tuple[str, ...]
    rate: float


async def take_known(clients: Clients, asks: Sequence[Ask]) -> Known:
    """Raises: UnknownError."""
    first = {ask.number: await _answer(clients, ask, again=False) for ask in asks}
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    gate = asyncio.Semaphore(AT_ONCE)

    async def again(ask: Ask) -> Answer:
        async with gate:
            return await _answer(clients, ask, again=True)

    second = await asyncio.gather(*(again(ask) for ask in asks))
    rate = len(asks) / (loop.time() - begin_s)
    unsteady = []
    for ask, answer in zip(asks, second, strict=True):
        if is_cut_call(ask, answer):
            del first[ask.number]
        elif differs := difference(answer, first[ask.number]):
            unsteady.append(f"ask {ask.number} ({ask.family}): {differs}")
            del first[ask.number]
    return Known(answers=first, unsteady=tuple(unsteady), rate=rate)


def is_cut_call(ask: Ask, answer: Answer) -> bool:
    """A call that `max_tokens` cut is text in a whole answer, and in a stream a call as far as it came."""
    return ask.family == "tools" and any(said.finish == "length" for said in answer.choices)


async def _answer(clients: Clients, ask: Ask, *, again: bool) -> Answer:
    """Whole the first time and as a stream the second, or the other way round, so that both are known to agree."""
    manner = STREAM if again is bool(ask.number % 2) else WHOLE
    outcome, answer = await clients.ask(ask, manner)
    if outcome.ending is not Ending.FINISHED:
        raise UnknownError(f"ask {ask.number} ({ask.family}, {ask.api}): {outcome.ending}, {outcome.error}: {ask.body}")
    return answer
