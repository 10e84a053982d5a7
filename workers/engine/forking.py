"""Choices of one prompt, once it is read: each after the first becomes a sequence and a job of its own.

They share the prompt's full blocks; a choice for which there is no room reads the prompt again when there is.
"""

from collections.abc import Callable, Sequence
from typing import Any

from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.jobs import Job, JobTable
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence as Seq

CopyBlocks = Callable[[Sequence[tuple[int, int]]], Any]


class Forking:
    """
    Args:
        copy_blocks: Copies the contents of blocks, (from, to) each, before the next step.
    """

    def __init__(self, *, jobs: JobTable, scheduler: Scheduler, blocks: BlockManager, copy_blocks: CopyBlocks) -> None:
        self._jobs = jobs
        self._scheduler = scheduler
        self._blocks = blocks
        self._copy_blocks = copy_blocks

    def fork(self, job: Job, going: Sequence[tuple[int, int]]) -> None:
        """Appends to each choice that goes on its first token, and drops the others.

        Args:
            going: (choice, token) of each, that of the job's own sequence among them.
        """
        choices = {choice for choice, _ in going}
        for choice in [choice for choice in job.choices if choice not in choices]:
            self._jobs.drop_choice(job, choice)
        forks = [(choice, token) for choice, token in going if choice != job.seq.choice]
        for choice, token in forks:
            self._fork(job, choice, token)
        job.seq.output_token_ids.append(next(token for choice, token in going if choice == job.seq.choice))

    def _fork(self, job: Job, choice: int, token: int) -> None:
        child = _child(job.seq, choice)
        self._jobs.drop_choice(job, choice)
        self._jobs.add(Job(seq=child, choices=[choice], cached_reported=True, draft=job.draft))
        try:
            pairs = self._blocks.fork(job.seq, child)
        except OutOfBlocksError:
            child.output_token_ids.append(token)
            self._scheduler.add(child)  # reads the prompt again when there is room, mostly from the cache
            return
        self._copy_blocks(pairs)
        child.output_token_ids.append(token)
        self._scheduler.add_running(child)


def _child(parent: Seq, choice: int) -> Seq:
    return Seq(
        request_id=parent.request_id,
        choice=choice,
        attempt=parent.attempt,
        ingress_id=parent.ingress_id,
        prompt_token_ids=parent.prompt_token_ids,
        output_token_ids=[*parent.output_token_ids],
        params=parent.params,
        adapter_id=parent.adapter_id,
        root_hash=parent.root_hash,
        arrived_s=parent.arrived_s,
        deadline_s=parent.deadline_s,
        grammar=parent.grammar,
        follower=parent.follower.copy() if parent.follower is not None else None,
        num_scored_tokens=parent.num_scored_tokens,
    )
