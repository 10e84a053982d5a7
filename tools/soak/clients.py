"""Asks over HTTP and gRPC, in whatever manner, and says how it went. Tries nothing again: every loss is to be seen."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import aiohttp

import baton
from baton.errors import BatonError, DeadlineExceededError
from tools.soak.ask import GRPC, PATHS, Answer, Ask, difference, prefix_difference
from tools.soak.bad import Bad
from tools.soak.manner import MAX_PAUSES, Manner
from tools.soak.outcome import Ending, Outcome
from tools.soak.reading import Reader

TIMEOUT_S = 90.0  # of any request: what is not over by then hangs
CALLS_PER_SDK = 60  # then another connection takes its place


class Clients:
    """Against one server; `clock` gives the seconds that outcomes are told in."""

    def __init__(self, http: str, grpc: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = http
        self._target = grpc
        self._clock = clock
        self._num_asked = 0
        self._kept: aiohttp.ClientSession | None = None  # connections that serve many requests
        self._fresh: aiohttp.ClientSession | None = None  # one for each
        self._sdk: baton.AsyncClient | None = None
        self._sdk_calls = 0
        self._retired: list[baton.AsyncClient] = []

    async def __aenter__(self) -> "Clients":
        timeout = aiohttp.ClientTimeout(total=None)  # `ask` has its own
        self._kept = aiohttp.ClientSession(self._url, timeout=timeout)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._fresh = aiohttp.ClientSession(self._url, timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *error: object) -> None:
        for session in (self._kept, self._fresh):
            if session is not None:
                await session.close()
        for sdk in (*self._retired, *([self._sdk] if self._sdk else [])):
            await sdk.close()

    async def ask(self, ask: Ask, manner: Manner, known: Answer | None = None) -> tuple[Outcome, Answer]:
        """
        Args:
            known: What the answer is held to; None: nothing is known yet.
        """
        outcome = self._begin(ask.number, ask.family, ask.api, manner.name)
        reader = Reader(ask.api)
        call = self._over_grpc if ask.api == GRPC else self._over_http
        try:
            async with asyncio.timeout(manner.leaves_after_s or TIMEOUT_S):
                await call(ask, manner, outcome, reader)
        except TimeoutError:
            outcome.ending = Ending.LEFT if manner.leaves_after_s else Ending.SILENT
            outcome.error = "" if manner.leaves_after_s else f"not over after {TIMEOUT_S:g} s"
        outcome.end_s = self._clock()
        answer = reader.answer()
        outcome.num_tokens = answer.num_tokens or 0
        if reader.error and outcome.ending is Ending.FINISHED:
            outcome.ending, outcome.error = Ending.STATUS, reader.error
        if known is not None:
            compare = difference if outcome.ending is Ending.FINISHED else prefix_difference
            outcome.differs = compare(answer, known)
        return outcome, answer

    async def bad(self, bad: Bad) -> Outcome:
        outcome = self._begin(-1, "bad", bad.path, "bad")
        headers = {"Content-Type": "application/json", **(bad.headers or {})}
        async with (
            asyncio.timeout(TIMEOUT_S),
            self._ending(outcome),
            self._session().post(bad.path, data=bad.body, headers=headers) as reply,
        ):
            text = await reply.text()
            outcome.status = reply.status
            if reply.status != bad.status or bad.says not in text:
                outcome.differs = f"{reply.status} {text[:200]!r} instead of {bad.status} with {bad.says!r}"
                outcome.ending = Ending.STATUS
                outcome.is_retryable = "Retry-After" in reply.headers
        outcome.end_s = self._clock()
        return outcome

    def _begin(self, number: int, family: str, api: str, manner: str) -> Outcome:
        self._num_asked += 1
        name = f"soak-{self._num_asked}"
        return Outcome(number=number, family=family, api=api, manner=manner, request_id=name, begin_s=self._clock())

    def _session(self) -> aiohttp.ClientSession:
        session = self._kept if self._num_asked % 2 else self._fresh
        assert session is not None
        return session

    async def _over_http(self, ask: Ask, manner: Manner, outcome: Outcome, reader: Reader) -> None:
        body = dict(ask.body)
        if manner.stream:
            body["stream"] = True
            if ask.api in ("completions", "chat"):
                body["stream_options"] = {"include_usage": True}
        headers = {"X-Request-Id": outcome.request_id}
        async with (
            self._ending(outcome),
            self._session().post(PATHS[ask.api], json=body, headers=headers) as reply,
        ):
            outcome.status = reply.status
            if reply.status != 200:
                await _refused(reply, outcome)
            elif manner.stream:
                await self._read(reply, manner, outcome, reader)
            else:
                reader.whole(await reply.json())
                outcome.first_s = self._clock()

    async def _read(self, reply: aiohttp.ClientResponse, manner: Manner, outcome: Outcome, reader: Reader) -> None:
        pauses = MAX_PAUSES if manner.pause_s else 0
        async for data in _events(reply):
            if outcome.first_s is None:
                outcome.first_s = self._clock()
            reader.event(data, json.loads(data) if data.startswith("{") else None)
            if pauses:
                pauses -= 1
                await asyncio.sleep(manner.pause_s)
        if not reader.is_whole:
            outcome.ending = Ending.CUT if outcome.first_s is not None else Ending.LOST
            outcome.error = "the stream ended before its last event"

    @contextlib.asynccontextmanager
    async def _ending(self, outcome: Outcome) -> AsyncIterator[None]:
        """Names what the transport does."""
        cut = Ending.LOST
        try:
            yield
            return
        except aiohttp.ClientConnectorError as error:
            cut, outcome.error = Ending.REFUSED, str(error)
        except (aiohttp.ClientError, ConnectionError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        outcome.ending = Ending.CUT if cut is Ending.LOST and outcome.first_s is not None else cut

    async def _over_grpc(self, ask: Ask, manner: Manner, outcome: Outcome, reader: Reader) -> None:
        options = dict(ask.body)
        prompt = options.pop("prompt")
        timeout_s = manner.deadline_s or TIMEOUT_S
        pauses = MAX_PAUSES if manner.pause_s else 0
        try:
            async with self._next_sdk().stream(prompt, timeout_s=timeout_s, **options) as stream:
                async for delta in stream:
                    if outcome.first_s is None:
                        outcome.first_s, outcome.request_id = self._clock(), stream.request_id
                    _take(reader, delta)
                    if pauses and manner.stream:
                        pauses -= 1
                        await asyncio.sleep(manner.pause_s)
            reader.num_tokens = stream.usage.completion_tokens if stream.usage else None
        except DeadlineExceededError as error:
            outcome.ending = Ending.DEADLINE if manner.deadline_s else Ending.SILENT
            outcome.error = error.message
        except BatonError as error:
            outcome.ending, outcome.is_retryable = _grpc_ending(error, outcome), error.retryable
            outcome.error = f"{type(error).__name__}: {error.message}"

    def _next_sdk(self) -> baton.AsyncClient:
        """Those that are done with their share go once their last calls have long ended."""
        self._sdk_calls += 1
        if self._sdk is None or self._sdk_calls > CALLS_PER_SDK:
            if self._sdk is not None:
                self._retired.append(self._sdk)
            self._sdk, self._sdk_calls = baton.AsyncClient(self._target, timeout_s=TIMEOUT_S, max_retries=0), 0
        return self._sdk


async def _refused(reply: aiohttp.ClientResponse, outcome: Outcome) -> None:
    outcome.ending, outcome.error = Ending.STATUS, (await reply.text())[:300]
    outcome.is_retryable = "Retry-After" in reply.headers


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in reply.content:
        if line.startswith(b"data: "):
            yield line[6:].decode().rstrip("\r\n")


def _take(reader: Reader, delta: baton.Delta) -> None:
    part = reader.part(delta.choice)
    part.text += delta.text
    part.tokens += [str(token) for token in delta.token_ids]
    part.logprobs += [entry.sampled.logprob for entry in delta.logprobs]
    part.finish = delta.finish_reason or part.finish


def _grpc_ending(error: BatonError, outcome: Outcome) -> Ending:
    """A reset stream may have lost a first message that gRPC had not handed out yet."""
    text = error.message
    if any(word in text for word in ("RST_STREAM", "Socket closed", "Connection reset", "GOAWAY", "recvmsg", "closed")):
        return Ending.CUT if outcome.first_s is not None else Ending.LOST
    if "failed to connect" in text or "Connection refused" in text:
        return Ending.REFUSED
    return Ending.STATUS
