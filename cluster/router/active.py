"""One request while the dispatcher has it: what was asked, what waits for its reader, its timers and its links."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from baton.v1.inference_pb2 import SamplingParams
from baton.v1.worker_pb2 import TokenOutput
from cluster.router.lifecycle import Lifecycle
from cluster.router.session import WorkerLink
from workers.engine.block_hash import block_hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRequest:
    request_id: str  # unique in the cluster
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams  # n, max_tokens and seed set
    deadline_s: float  # of time.monotonic()

    @property
    def max_total_tokens(self) -> int:
        return len(self.prompt_token_ids) + int(self.sampling.max_tokens)


@dataclass(slots=True, kw_only=True, eq=False)
class Active:
    """Mutable; owned by the dispatcher. `news` is set when the outbox or the lifecycle has something to say."""

    request: DispatchRequest
    lifecycle: Lifecycle
    news: asyncio.Event = field(default_factory=asyncio.Event)
    outbox: list[TokenOutput] = field(default_factory=list)
    links: set[WorkerLink] = field(default_factory=set)
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    prompt_hashes: dict[int, list[int]] = field(default_factory=dict)  # by block size

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def block_hashes(self, output_token_ids: Sequence[int], block_size: int) -> list[int]:
        """Of the prompt and `output_token_ids`; the prompt's alone are kept, a request may wait and be routed again."""
        if output_token_ids:
            return block_hashes([*self.request.prompt_token_ids, *output_token_ids], block_size)
        if block_size not in self.prompt_hashes:
            self.prompt_hashes[block_size] = block_hashes(self.request.prompt_token_ids, block_size)
        return self.prompt_hashes[block_size]

    def set_timer(self, name: str, at_s: float, callback: Callable[["Active"], None]) -> None:
        """Calls back once at `at_s` of time.monotonic(); replaces the timer of that name."""
        self.clear_timer(name)
        delay_s = max(at_s - time.monotonic(), 0.0)
        self.timers[name] = asyncio.get_running_loop().call_later(delay_s, callback, self)

    def clear_timer(self, name: str) -> None:
        timer = self.timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def clear_timers(self) -> None:
        for name in list(self.timers):
            self.clear_timer(name)
