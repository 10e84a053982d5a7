"""Two workers of a machine at work at once, and hand-overs between them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import product

from cluster.profiling.local_cluster import LocalCluster, WorkerProcess
from cluster.profiling.neighbours import Beside, StepKind, receive_s
from cluster.profiling.running import ask, dispatching, taken

# Tokens are at most these shares of the context, for models whose context is short.
NUM_DECODES = 8
CONTEXT = 256  # tokens of each decode's prompt; an eighth
NUM_PROMPTS, PROMPT_TOKENS = 3, 512  # a half
MINE, THEIRS = 40, 160  # output tokens of a load of decodes, and of a neighbour's, which must outlast it; a half
BEGUN_S = 0.05  # after it was sent, a load is under way
NUM_HANDOVERS, HANDED_TOKENS = 8, 96  # a quarter
APART_S = 0.06  # between hand-overs: decode steps that none of them touches

Prompt = Callable[[int], list[int]]  # of so many tokens


async def beside_each_other(mine: WorkerProcess, theirs: WorkerProcess, prompt: Prompt) -> list[Beside]:
    """One round: each kind of load of `mine` alone, and beside each kind of `theirs`."""
    found = []
    longest = mine.facts["max_model_len"]
    async with dispatching([mine]) as my_cluster, dispatching([theirs]) as their_cluster:
        for kind, their_kind in product(StepKind, StepKind):
            await taken(mine)
            await _load(my_cluster, kind, prompt, longest, MINE)
            alone, _ = await taken(mine)
            await taken(theirs)
            async with _busy(their_cluster, their_kind, prompt, longest):
                await _load(my_cluster, kind, prompt, longest, MINE)
            beside, _ = await taken(mine)
            neighbour, _ = await taken(theirs)
            found.append(Beside(kind=kind, alone=alone, beside=beside, neighbour=neighbour))
    return found


@contextlib.asynccontextmanager
async def _busy(cluster: LocalCluster, kind: StepKind, prompt: Prompt, longest: int) -> AsyncIterator[None]:
    """Loads of the kind, one after the other, from a moment before to the end; the last one is waited for."""
    is_over = False

    async def loads() -> None:
        while not is_over:
            await _load(cluster, kind, prompt, longest, THEIRS)

    task = asyncio.create_task(loads())
    try:
        await asyncio.sleep(BEGUN_S)
        yield
    finally:
        is_over = True
        await task


async def _load(cluster: LocalCluster, kind: StepKind, prompt: Prompt, longest: int, num_outputs: int) -> None:
    if kind is StepKind.PROMPTS:
        for _ in range(NUM_PROMPTS):
            await ask(cluster, prompt(min(PROMPT_TOKENS, longest // 2)), 1)
        return
    context, num_outputs = min(CONTEXT, longest // 8), min(num_outputs, longest // 2)
    await asyncio.gather(*(ask(cluster, prompt(context), num_outputs) for _ in range(NUM_DECODES)))


async def receiving(sender: WorkerProcess, receiver: WorkerProcess, slower: float, prompt: Prompt) -> float:
    """Seconds that a prompt which comes from `sender` takes of the steps of `receiver`, which writes meanwhile.

    Args:
        slower: Share by which decodes are slower beside another worker.
    """
    longest = receiver.facts["max_model_len"]
    context, num_handed = min(CONTEXT, longest // 8), min(HANDED_TOKENS, longest // 4)
    async with dispatching([receiver]) as writing, dispatching([sender, receiver]) as handing_over:
        decodes = [asyncio.create_task(ask(writing, prompt(context), longest * 3 // 4)) for _ in range(NUM_DECODES)]
        await asyncio.sleep(4 * BEGUN_S)
        await taken(sender)
        await taken(receiver)
        for _ in range(NUM_HANDOVERS):
            await ask(handing_over, prompt(num_handed), 2)
            await asyncio.sleep(APART_S)
        written, _ = await taken(receiver)
        read, _ = await taken(sender)
        for task in decodes:
            task.cancel()
        await asyncio.gather(*decodes, return_exceptions=True)
        await asyncio.sleep(BEGUN_S)
        await taken(receiver)
    full = [step for step in written if not step.prompts and step.num_decodes >= NUM_DECODES]
    return receive_s(full, read, slower)
