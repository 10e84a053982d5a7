"""Answers what is left of a batch, so many requests at once; answers are recorded in the order in which they come."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from cluster.commands.batch.lines import BatchLine
from cluster.commands.batch.record import BatchRecord

Answer = Callable[[BatchLine], Awaitable[Mapping[str, Any]]]


async def run_batch(
    lines: Iterable[BatchLine],
    answer: Answer,
    record: BatchRecord,
    *,
    concurrency: int,
    on_done: Callable[[], None],
) -> None:
    """
    Args:
        lines: Of them those that are not in the record are answered.
    Raises: what the first `answer` to fail raises; others are cancelled, and what they had sent is not recorded.
    """
    left = (line for line in lines if line.custom_id not in record.done)

    async def work() -> None:
        for line in left:
            record.append(await answer(line))
            on_done()

    tasks = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
