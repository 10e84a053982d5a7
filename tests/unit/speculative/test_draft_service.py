"""A draft worker's end of a stream, without gRPC: however it ends, the peer is forgotten, and nobody complains."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

from baton.v1.draft_pb2 import DraftHello, FromDrafter, Guess, ToDrafter
from tests.unit.engine.driver import make_spec
from workers.model.fake import VOCAB_SIZE, FakeRunner
from workers.spec import Role
from workers.speculative.draft_engine import DraftEngine
from workers.speculative.draft_service import DraftingService

HELLO = ToDrafter(hello=DraftHello(worker_id="decode-0", incarnation="i", vocab_size=VOCAB_SIZE, num_tokens=4))


async def _all_ran() -> None:
    """What can run without time going by."""
    for _ in range(50):
        await asyncio.sleep(0)


class Stream:
    """One that has been agreed to; `ends` ends what the peer says."""

    def __init__(self) -> None:
        spec = make_spec(Role.DRAFT)
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(context))
        self.service = DraftingService(spec=spec, incarnation="i")
        self.engine = DraftEngine(runner=FakeRunner(spec), spec=spec, emit=lambda report: None, tell=self.service.tell)
        self.service.serve(self.engine)
        self.ends = asyncio.Event()
        self.replies: AsyncIterator[FromDrafter] = self.service.Draft(self._said(), None)  # type: ignore[arg-type]

    async def _said(self) -> AsyncIterator[ToDrafter]:
        yield HELLO
        await self.ends.wait()

    async def begin(self) -> None:
        """Up to a first guess."""
        assert (await anext(self.replies)).hello.vocab_size == VOCAB_SIZE
        reply = asyncio.ensure_future(anext(self.replies))
        await _all_ran()
        self.engine.step()
        (peer,) = self.engine.forecasts.peers
        self.service.tell({peer: {1: Guess(number=1)}})
        assert [guess.number for guess in (await reply).guesses] == [1]

    async def num_peers(self) -> int:
        """When all has run that can."""
        await _all_ran()
        self.engine.step()
        gc.collect()
        await _all_ran()
        return len(self.engine.forecasts.peers)


async def test_a_peer_that_is_gone_is_forgotten_without_complaints() -> None:
    stream = Stream()
    await stream.begin()
    reply = asyncio.ensure_future(anext(stream.replies))
    await _all_ran()
    reply.cancel()
    await _all_ran()
    del reply, stream.replies  # which hold what failed
    assert await stream.num_peers() == 0
    assert stream.faults == []


async def test_a_peer_that_neither_talks_nor_listens_is_forgotten() -> None:
    stream = Stream()
    await stream.begin()
    assert await stream.num_peers() == 1
    stream.ends.set()
    assert await stream.num_peers() == 0
