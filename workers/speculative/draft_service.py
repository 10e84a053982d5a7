"""A draft worker's end of the draft links: one stream for each worker that decodes.

A peer that is silent for `SILENCE_S`, or whose stream ends, is forgotten with all that it had followed. Of guesses the
newest of each sequence goes out: a peer that reads late gets fewer, never older ones.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio

from baton.errors import BatonError
from baton.v1 import draft_pb2, draft_pb2_grpc
from baton.v1.draft_pb2 import DraftHello, DraftHelloReply, FromDrafter, Guess, ToDrafter
from workers.spec import WorkerSpec
from workers.speculative.draft_engine import DraftEngine
from workers.speculative.forecast import Limits
from workers.speculative.forecasts import Peer
from workers.speculative.telling import Guesses

logger = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
SILENCE_S = 4.0
MAX_TOKENS = 64  # in a row that a peer may ask for


@dataclass(slots=True, eq=False)
class Waiting:
    """Guesses on their way to one peer."""

    guesses: dict[int, Guess] = field(default_factory=dict)
    are_there: asyncio.Event = field(default_factory=asyncio.Event)


class DraftingService(draft_pb2_grpc.DraftingServicer):
    """Runs on the worker's asyncio loop; the engine calls `tell` from its own thread."""

    def __init__(self, *, spec: WorkerSpec, incarnation: str) -> None:
        self._spec = spec
        self._incarnation = incarnation
        self._engine: DraftEngine | None = None
        self._waiting: dict[Peer, Waiting] = {}
        self._loop = asyncio.get_running_loop()

    def serve(self, engine: DraftEngine) -> None:
        """Before the first call."""
        self._engine = engine

    def tell(self, guesses: dict[Peer, Guesses]) -> None:
        """From the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._take, guesses)

    async def Draft(
        self, request_iterator: AsyncIterator[ToDrafter], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[FromDrafter]:
        assert self._engine is not None
        first: ToDrafter | None = None
        with contextlib.suppress(TimeoutError):
            first = await asyncio.wait_for(anext(aiter(request_iterator), None), SILENCE_S)
        if first is None or first.WhichOneof("message") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello")
            return
        reply = self._answer(first.hello)
        yield FromDrafter(hello=reply)
        if reply.refusal:
            logger.warning("refused worker_id=%s reason=%s", first.hello.worker_id, reply.refusal)
            return
        peer = self._engine.join(self._limits(first.hello))
        waiting = self._waiting[peer] = Waiting()
        logger.info("drafting for worker_id=%s", first.hello.worker_id)
        reader = asyncio.create_task(self._read(peer, request_iterator, waiting))
        try:
            while not reader.done():
                yield FromDrafter(guesses=await _next(waiting))
        finally:
            reader.cancel()
            del self._waiting[peer]
            self._engine.leave(peer)
            logger.info("no more drafting for worker_id=%s", first.hello.worker_id)

    def _answer(self, hello: DraftHello) -> DraftHelloReply:
        assert self._engine is not None
        reply = DraftHelloReply(
            worker_id=self._spec.worker_id,
            incarnation=self._incarnation,
            vocab_size=self._engine.runner.vocab_size,
        )
        if hello.vocab_size != reply.vocab_size:
            reply.refusal = (
                f"the draft model of {self._spec.worker_id} has a vocabulary of {reply.vocab_size} tokens, the model "
                f"of {hello.worker_id} one of {hello.vocab_size}; give a draft model with the target's vocabulary"
            )
        elif not 1 <= hello.num_tokens <= MAX_TOKENS:
            reply.refusal = f"num_tokens: {hello.num_tokens} is not between 1 and {MAX_TOKENS}"
        return reply

    def _limits(self, hello: DraftHello) -> Limits:
        assert self._engine is not None
        return Limits(
            num_tokens=hello.num_tokens,
            max_len=self._engine.runner.max_model_len,
            ahead=not hello.no_overlap,
            keeps_drafted=self._spec.gang.layer_parallel == 1,
        )

    async def _read(self, peer: Peer, messages: AsyncIterator[ToDrafter], waiting: Waiting) -> None:
        """Until the stream ends, or the peer is silent for too long or talks nonsense; then it is forgotten, even if
        it takes no more of what it is told, and the stream stands still."""
        assert self._engine is not None
        reading = aiter(messages)
        try:
            while True:
                message = await asyncio.wait_for(anext(reading), SILENCE_S)
                kind = message.WhichOneof("message")
                if kind == "follow":
                    self._engine.follow(peer, message.follow)
                elif kind == "news":
                    self._engine.news(peer, message.news)
        except (StopAsyncIteration, TimeoutError):
            return
        except BatonError as error:
            logger.warning("a peer's message makes no sense error=%s", error.message)
        finally:
            self._engine.leave(peer)
            waiting.are_there.set()

    def _take(self, guesses: dict[Peer, Guesses]) -> None:
        for peer, news in guesses.items():
            waiting = self._waiting.get(peer)
            if waiting is not None:
                waiting.guesses |= news
                waiting.are_there.set()


async def _next(waiting: Waiting) -> list[draft_pb2.Guess]:
    """The guesses that are there, or nothing after a while: a sign of life."""
    if not waiting.guesses:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting.are_there.wait(), HEARTBEAT_S)
    waiting.are_there.clear()
    guesses, waiting.guesses = list(waiting.guesses.values()), {}
    return guesses
