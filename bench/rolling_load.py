"""Open-loop load with known answers, over HTTP and gRPC in turn, that goes on while a cluster is changed."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import aiohttp

import baton
from baton.errors import BatonError


@dataclass(frozen=True, slots=True)
class Question:
    prompt: tuple[int, ...]
    num_tokens: int


@dataclass(slots=True, kw_only=True)
class Asked:
    """Times are seconds of the load's clock."""

    question: int
    due_s: float
    over_http: bool
    token_s: list[float] = field(default_factory=list)
    text: str = ""
    num_tokens: int = 0
    error: str = ""
    is_wrong: bool = False

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.due_s

    @property
    def tpot_s(self) -> float:
        return (self.token_s[-1] - self.token_s[0]) / max(self.num_tokens - 1, 1)

    def meets(self, ttft_s: float, tpot_s: float) -> bool:
        return bool(self.token_s) and not self.error and self.ttft_s <= ttft_s and self.tpot_s <= tpot_s


def questions(num: int, prompt_tokens: int, num_tokens: int, vocab_size: int) -> list[Question]:
    rng = Random(7)
    return [Question(tuple(rng.randrange(2, vocab_size) for _ in range(prompt_tokens)), num_tokens) for _ in range(num)]


class Load:
    """`asked` are all requests, the running ones included.

    Args:
        http: URL. `grpc`: host:port.
    """

    def __init__(self, http: str, grpc: str, asked_for: Sequence[Question], *, rate: float) -> None:
        self.asked: list[Asked] = []
        self._http = http
        self._grpc = grpc
        self._questions = asked_for
        self._rate = rate
        self._known: dict[int, str] = {}
        self._is_ending = False
        self._begin_s = time.monotonic()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._begin_s

    def end(self) -> None:
        self._is_ending = True

    async def run(self) -> None:
        """Until `end` and the last answer; what the first answers to each question were is asked for before."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            baton.AsyncClient(self._grpc, timeout_s=300, max_retries=0) as sdk,
        ):
            for number in range(len(self._questions)):
                first = Asked(question=number, due_s=self.now_s, over_http=True)
                await self._ask(first, session, sdk)
                assert not first.error, first.error
                self._known[number] = first.text
            self._begin_s = time.monotonic()
            await self._arrivals(session, sdk)

    async def _arrivals(self, session: aiohttp.ClientSession, sdk: baton.AsyncClient) -> None:
        rng, due_s = Random(11), 0.0
        async with asyncio.TaskGroup() as tasks:
            while not self._is_ending:
                due_s += rng.expovariate(self._rate)
                await asyncio.sleep(max(due_s - self.now_s, 0.0))
                number = len(self.asked)
                asked = Asked(question=number % len(self._questions), due_s=due_s, over_http=number % 2 == 0)
                self.asked.append(asked)
                tasks.create_task(self._ask(asked, session, sdk))

    async def _ask(self, asked: Asked, session: aiohttp.ClientSession, sdk: baton.AsyncClient) -> None:
        question = self._questions[asked.question]
        try:
            await (
                self._over_http(asked, question, session) if asked.over_http else self._over_grpc(asked, question, sdk)
            )
        except (BatonError, aiohttp.ClientError, TimeoutError, RuntimeError) as error:
            asked.error = f"{type(error).__name__}: {error}"
        asked.is_wrong = not asked.error and asked.text != self._known.get(asked.question, asked.text)

    async def _over_http(self, asked: Asked, question: Question, session: aiohttp.ClientSession) -> None:
        body = {
            "model": "demo",
            "prompt": list(question.prompt),
            "max_tokens": question.num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with session.post(f"{self._http}/v1/completions", json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:200]}")
            is_done = False
            async for line in response.content:
                data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data == b"[DONE]":
                    is_done = True
                elif data:
                    self._take(asked, json.loads(data))
            if not is_done:
                raise RuntimeError("the stream ended early")

    def _take(self, asked: Asked, event: dict[str, object]) -> None:
        if "error" in event:
            raise RuntimeError(str(event["error"]))
        for choice in event.get("choices", ()):  # type: ignore[attr-defined]
            asked.token_s.append(self.now_s)
            asked.text += choice["text"]
        if usage := event.get("usage"):
            asked.num_tokens = usage["completion_tokens"]  # type: ignore[index]

    async def _over_grpc(self, asked: Asked, question: Question, sdk: baton.AsyncClient) -> None:
        async with sdk.stream(
            question.prompt, max_tokens=question.num_tokens, temperature=0, ignore_eos=True
        ) as stream:
            async for delta in stream:
                if delta.token_ids:
                    asked.token_s.append(self.now_s)
                    asked.num_tokens += len(delta.token_ids)
                asked.text += delta.text
