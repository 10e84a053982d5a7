"""Changes of the kind that an owner makes while it serves: roles, another config, counts, adapters."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tools.soak.cluster import SoakCluster
from tools.soak.hosts import CUT_S, HostsCluster
from tools.soak.schedule import Kind, Planned
from tools.soak.watch import FeedError, Watch, workers_of

SETTLE_S = 3.0  # a flipped role serves for so long before it flips back
ADAPTER = "soak-adapter"
BATCHED_TOKENS = (96, 128)  # what a rolling change takes in turn


class Changes:
    """Each leaves the cluster as it was, so that known answers hold; a rolling change leaves another chunk."""

    def __init__(
        self, cluster: SoakCluster, watch: Watch, *, knows: Mapping[str, bool], adapter: Path | None = None
    ) -> None:
        """
        Args:
            knows: What this version can do: `set_role`, `rolling`.
            adapter: A folder that may be loaded while it serves; None: none may.
        """
        self._cluster = cluster
        self._watch = watch
        self._knows = knows
        self._adapter = adapter
        self._num_rolled = 0

    def kinds(self) -> list[Kind]:
        found = []
        if self._cluster.has("decode"):
            found.append(Kind.SCALE)
        if self._knows.get("set_role") and min(self._cluster.has("prefill"), self._cluster.has("decode")) > 1:
            found.append(Kind.FLIP_ROLE)
        if self._knows.get("rolling"):
            found += [Kind.ROLLING_CHANGE, Kind.ROLLING_INGRESS]
        if self._adapter is not None:
            found.append(Kind.ADAPTER)
        if isinstance(self._cluster, HostsCluster):
            found.append(Kind.CUT_LINK)
        return found

    async def do(self, planned: Planned) -> tuple[str, str]:
        """Whom it met, and what to say of it."""
        match planned.kind:
            case Kind.FLIP_ROLE:
                return await self._flip(planned)
            case Kind.ROLLING_CHANGE:
                return await self._roll()
            case Kind.ROLLING_INGRESS:
                return await self._roll_ingress()
            case Kind.SCALE:
                return await self._scale()
            case Kind.ADAPTER:
                return await self._load_adapter()
            case Kind.CUT_LINK:
                return await self._cut()
        raise LookupError(f"{planned.kind} is no change")

    async def _flip(self, planned: Planned) -> tuple[str, str]:
        roles = ("prefill", "decode") if planned.lot < 0.5 else ("decode", "prefill")
        worker = next(one["worker_id"] for one in workers_of(self._watch.view) if one["role"] == roles[0])
        begin_s = asyncio.get_running_loop().time()
        await self._watch.do("set_role", worker, roles[1])
        took_s = asyncio.get_running_loop().time() - begin_s
        await asyncio.sleep(SETTLE_S)
        await self._watch.do("set_role", worker, roles[0])
        return worker, f"from {roles[0]} to {roles[1]} in {took_s:.2f} s, and back"

    async def _roll(self) -> tuple[str, str]:
        tokens = BATCHED_TOKENS[self._num_rolled % len(BATCHED_TOKENS)]
        self._num_rolled += 1
        await self._cluster.up(engine={**self._cluster.config["engine"], "max_batched_tokens": tokens})
        return "all workers", f"engine.max_batched_tokens: {tokens}"

    async def _roll_ingress(self) -> tuple[str, str]:
        router = self._cluster.config.get("router", {})
        tries = router.get("max_retries", 2) + 1
        await self._cluster.up(router={**router, "max_retries": tries})
        return "all ingress replicas", f"router.max_retries: {tries}"

    async def _scale(self) -> tuple[str, str]:
        pools: dict[str, Any] = self._cluster.config["pools"]
        count = pools["decode"]["workers"]
        for wanted in (count + 1, count):
            await self._cluster.up(pools={**pools, "decode": {**pools["decode"], "workers": wanted}})
            await asyncio.sleep(SETTLE_S)
        return "decode", f"{count} workers, {count + 1}, {count}"

    async def _load_adapter(self) -> tuple[str, str]:
        async with aiohttp.ClientSession(self._cluster.http) as http:
            await _post(http, "/v1/load_lora_adapter", {"lora_name": ADAPTER, "lora_path": str(self._adapter)})
            body = {"model": ADAPTER, "prompt": "Once", "max_tokens": 8, "temperature": 0}
            texts = [await _post(http, "/v1/completions", body) for _ in range(3)]
            await _post(http, "/v1/unload_lora_adapter", {"lora_name": ADAPTER})
        if len({_text(text) for text in texts}) != 1:
            raise FeedError(f"an adapter answered {[_text(text) for text in texts]}")
        return ADAPTER, "loaded, asked, unloaded"

    async def _cut(self) -> tuple[str, str]:
        assert isinstance(self._cluster, HostsCluster)
        self._cluster.hosts.cut()
        try:
            await asyncio.sleep(CUT_S)
        finally:
            self._cluster.hosts.mend()
        return "the second host", f"for {CUT_S:g} s"


async def _post(http: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Any:
    try:
        async with asyncio.timeout(60), http.post(path, json=body) as reply:
            text = await reply.text()
            if reply.status != 200:
                raise FeedError(f"{path}: {reply.status} {text[:200]}")
            return await reply.json(content_type=None) if text.startswith("{") else text
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FeedError(f"{path}: {type(error).__name__} {error}") from error


def _text(reply: Any) -> str:
    text: str = reply["choices"][0]["text"]
    return text
