"""What drafts of a config's draft model cost and bring: its own steps, and how often the target writes the same.

The target answers sample prompts; then the draft model is asked for its next token after each token of the answers,
greedily, as a worker like any other. Which of them a round of drafts would have had right follows from that.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from baton.v1.inference_pb2 import SamplingParams
from cluster.config.schema import BatonConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.fleet.plan import worker_spec
from cluster.models.find import find_draft
from cluster.profiling.acceptance import chances_of
from cluster.profiling.local_cluster import LocalCluster, greedy
from cluster.profiling.measure import MEASURED, MeasureProgress, as_measured
from cluster.profiling.running import REQUEST_TIMEOUT_S, dispatching, profiled_workers
from cluster.profiling.specs import resolved
from workers.spec import GangSpec, Role, WorkerSpec

NUM_TOKENS, NUM_TOKENS_QUICK = 64, 32  # of each answer


def draft_worker(config: BatonConfig, target: WorkerSpec) -> WorkerSpec | None:
    """One rank that has the draft model, on as many cores as the target's; None: the config drafts with none.

    Raises: ConfigError: The draft model is not there.
    """
    if not config.pools.draft.model or not (config.wants_draft_model or config.drafts_locally):
        return None
    plan = replace(resolved(config), draft_path=find_draft(config))
    spec = worker_spec(plan, "draft-0", Role.DRAFT, cores=target.cores, host=target.host, secret=target.secret)
    return replace(spec, gang=GangSpec())


def measure_chances(
    target: Sequence[WorkerSpec],
    draft: WorkerSpec,
    prompts: Sequence[Sequence[int]],
    *,
    depth: int,
    quick: bool,
    progress: MeasureProgress,
) -> DraftChances:
    """
    Args:
        target: The ranks of a worker that has the target, the leader first.
        prompts: Which it answers, one after the other.
        depth: Tokens of a round.
    Raises:
        UnavailableError: A worker did not start, or failed a request.
    """
    num_tokens = NUM_TOKENS_QUICK if quick else NUM_TOKENS
    progress.phase("drafts", 2 * len(prompts))
    answers = asyncio.run(_answers(as_measured(target), prompts, num_tokens, progress))
    agreement = asyncio.run(_agreement(as_measured([draft]), prompts, answers, progress))
    return chances_of(agreement, depth)


async def _answers(
    ranks: Sequence[WorkerSpec], prompts: Sequence[Sequence[int]], num_tokens: int, progress: MeasureProgress
) -> list[list[int]]:
    async with profiled_workers(ranks) as workers, dispatching([workers[MEASURED]]) as cluster:
        found = []
        for prompt in prompts:
            found.append(await _written(cluster, prompt, until_end(num_tokens)))
            progress.advance()
        return found


async def _agreement(
    ranks: Sequence[WorkerSpec],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    progress: MeasureProgress,
) -> list[list[bool]]:
    """Of each answer's tokens but the first, which comes with the prompt."""
    found = []
    async with profiled_workers(ranks) as workers, dispatching([workers[MEASURED]]) as cluster:
        room = int(workers[MEASURED].facts["max_model_len"])
        for prompt, answer in zip(prompts, answers, strict=True):
            texts = [[*prompt, *answer[:place]] for place in range(1, min(len(answer), room - len(prompt)))]
            guesses = await asyncio.gather(*(_written(cluster, text, greedy(1)) for text in texts))
            found.append([guess == [token] for guess, token in zip(guesses, answer[1:], strict=False)])
            progress.advance()
    return found


def until_end(num_tokens: int) -> SamplingParams:
    """What a model writes past its end is no measure."""
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, n=1)


async def _written(cluster: LocalCluster, prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    outputs = cluster.generate(prompt, sampling, REQUEST_TIMEOUT_S)
    return [token async for some in outputs for output in some for token in output.token_ids]
