"""Sends the requests of a run: by the clock (open loop) or by the answers (closed loop).

Every request sent has one record, also when the run is interrupted; nothing here looks at what is in it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cluster.load.backend import Backend, Clock, Sampling
from cluster.load.record import Record
from cluster.load.requests import LoadRequest

OnDone = Callable[[Record], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`records` in the order sent, times on the runner's clock."""

    records: tuple[Record, ...]
    start_s: float
    duration_s: float
    is_interrupted: bool


class Runner:
    """One run; used once."""

    def __init__(self, backend: Backend, sampling: Sampling, *, clock: Clock, on_done: OnDone) -> None:
        """`clock` must be the backend's, or run like it; `on_done` is called as each request ends."""
        self._backend = backend
        self._sampling = sampling
        self._clock = clock
        self._on_done = on_done
        self._records: list[Record] = []

    async def run(self, requests: Sequence[LoadRequest], *, concurrency: int | None) -> Run:
        """Sends all of them and waits for their ends; cancelling it cancels what runs and returns what there is.

        Args:
            requests: In the order they are due; without `concurrency`, each with its `arrival_s`.
            concurrency: Requests at once in a closed loop, >= 1; None: an open loop.
        """
        start_s = self._clock()
        is_interrupted = False
        try:
            async with asyncio.TaskGroup() as tasks:
                if concurrency is None:
                    await self._by_clock(requests, start_s, tasks)
                else:
                    waiting = iter(requests)
                    for _ in range(min(concurrency, len(requests))):
                        tasks.create_task(self._by_answers(waiting))
        except asyncio.CancelledError:
            is_interrupted = True
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # answered by returning what there is
        duration_s = max(self._clock() - start_s, 1e-9)
        return Run(records=tuple(self._records), start_s=start_s, duration_s=duration_s, is_interrupted=is_interrupted)

    async def _by_clock(self, requests: Sequence[LoadRequest], start_s: float, tasks: asyncio.TaskGroup) -> None:
        for request in requests:
            payload = self._backend.encode(request, self._sampling)
            assert request.arrival_s is not None
            due_s = start_s + request.arrival_s
            await asyncio.sleep(max(0.0, due_s - self._clock()))
            tasks.create_task(self._send(request, payload, due_s))

    async def _by_answers(self, waiting: Iterator[LoadRequest]) -> None:
        for request in waiting:
            payload = self._backend.encode(request, self._sampling)
            await self._send(request, payload, None)

    async def _send(self, request: LoadRequest, payload: object, due_s: float | None) -> None:
        now_s = self._clock()
        record = Record(
            index=request.index,
            due_s=now_s if due_s is None else due_s,
            sent_s=now_s,
            prompt_tokens=request.input_len,
        )
        self._records.append(record)
        await self._backend.send(payload, record)
        record.is_done = True
        self._on_done(record)
