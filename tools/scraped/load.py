"""Requests of every kind, until told to stop: long prompts that share beginnings, short ones, clients that leave, and
some that are refused."""

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import httpx

TEXT = "It was a dark night, and the old house stood alone upon the hill. The wind went round it and found no door. "
NUM_CLIENTS = 4
TIMEOUT_S = 60.0


class Load:
    """On a thread of its own, from now until `stop`; `num_sent` counts requests."""

    def __init__(self, http: str, key: str, seed: int = 0) -> None:
        self.num_sent = 0
        self._http = http
        self._key = key
        self._random = random.Random(seed)
        self._is_stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Once what is under way has ended."""
        self._is_stopped = True
        self._thread.join(2 * TIMEOUT_S)

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=self._http, headers=headers, timeout=TIMEOUT_S) as client:
            await asyncio.gather(*(self._keep_asking(client) for _ in range(NUM_CLIENTS)))

    async def _keep_asking(self, client: httpx.AsyncClient) -> None:
        kinds: dict[Callable[[httpx.AsyncClient], Any], int] = {
            self._long: 5,
            self._known: 3,
            self._short: 4,
            self._leave: 1,
            self._wrong: 1,
        }
        while not self._is_stopped:
            (kind,) = self._random.choices(list(kinds), list(kinds.values()))
            self.num_sent += 1
            await kind(client)

    async def _long(self, client: httpx.AsyncClient) -> None:
        """New: it is read by prefill and handed over."""
        prompt = f"{self._random.random()}: " + TEXT * self._random.randint(2, 12)
        await client.post("/v1/completions", json=self._body(prompt, self._random.randint(8, 48)))

    async def _known(self, client: httpx.AsyncClient) -> None:
        """It begins like others: most of it is in a prefix cache."""
        prompt = TEXT * self._random.randint(2, 6) + f"Chapter {self._random.randint(1, 9)}."
        await client.post("/v1/completions", json=self._body(prompt, self._random.randint(8, 48)))

    async def _short(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/completions", json=self._body("Once upon a time", self._random.randint(4, 24)))

    async def _leave(self, client: httpx.AsyncClient) -> None:
        body = {**self._body(TEXT, 200), "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                break

    async def _wrong(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/completions", json={**self._body("no", 4), "temperature": -1})

    def _body(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        return {"model": "demo", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
