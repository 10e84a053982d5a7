"""Pure rules around a step: the batch that a plan makes, when an answer ends, what can never run."""

from collections.abc import Sequence
from typing import NamedTuple

from baton.errors import BatonError, InvalidRequestError
from workers.engine.following import Follower, Grammars
from workers.engine.jobs import Job
from workers.engine.scheduler import ScheduledChunk, StepPlan
from workers.engine.sequence import FinishReason
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import Batch, Chunk, ChunkKind, ModelRunner, Sampled, SampleRow, Watch
from workers.model.prompt_rows import PromptRow

UNKNOWN = (0,)


class End(NamedTuple):
    """How an answer ends."""

    reason: FinishReason
    stop_reason: str = ""  # the stop token's id
    is_after: bool = False  # the last token is part of the text: its grammar allows none after it


def make_batch(
    plan: StepPlan, jobs: Sequence[Job], watch: Watch | None = None, grammars: Grammars | None = None
) -> tuple[Batch, list[tuple[int, int]]]:
    """The runner's batch, and for each of its sample rows (index of the job, choice).

    Args:
        jobs: Those of the plan's chunks, in their order.
        watch: See `Batch`.
        grammars: Makes the masks of those that follow one, from now on; None: nobody does.
    """
    chunks: list[Chunk] = []
    rows: list[SampleRow] = []
    prompts: list[PromptRow] = []
    owners: list[tuple[int, int]] = []
    for index, (scheduled, job) in enumerate(zip(plan.chunks, jobs, strict=True)):
        seq, draft = scheduled.seq, scheduled.draft
        start, num_tokens = seq.num_scheduled_tokens, seq.num_coming_tokens
        end = start + scheduled.num_tokens
        is_decode = scheduled.kind is ChunkKind.DECODE
        follows = seq.pending_row if seq.num_pending_tokens else None
        num_scored = 0 if is_decode else _num_scored(seq, start, end)
        if num_scored:
            prompts.append(_prompt_row(seq, index, start, num_scored))
        chunks.append(
            Chunk(
                token_ids=_decoded(seq, draft.token_ids) if is_decode else seq.tokens(start, end),
                start=start,
                block_ids=seq.block_ids,
                num_sequence_tokens=num_tokens + len(draft.token_ids),
                kind=scheduled.kind,
                state_id=seq.state_ids[0] if seq.state_ids else None,
                parents=draft.parents,
                adapter_id=seq.adapter_id,
                num_scored=num_scored,
                follows=follows,
            )
        )
        if end < num_tokens or (not is_decode and writes_nothing(seq)):
            continue
        for choice in job.choices:
            rows.append(
                SampleRow(
                    chunk=index,
                    choice=choice,
                    params=seq.params,
                    prompt_token_ids=seq.prompt_token_ids,
                    output_token_ids=seq.output_token_ids,
                    draft_token_ids=draft.token_ids,
                    parents=draft.parents,
                    is_masked=seq.follower is not None,
                    follows=follows,
                )
            )
            owners.append((index, choice))
    masks = grammars.masks(rows, [jobs[index].seq.follower for index, _ in owners]) if grammars is not None else None
    return Batch(chunks=chunks, samples=rows, watch=watch, masks=masks, prompts=prompts), owners


def _decoded(seq: Seq, draft_token_ids: Sequence[int]) -> Sequence[int]:
    """Its last token, or a stand-in for one that nobody knows yet, and guesses at those after it."""
    return UNKNOWN if seq.num_pending_tokens else [seq.output_token_ids[-1], *draft_token_ids]


def writes_nothing(seq: Seq) -> bool:
    """Whether it ends when its prompt is read."""
    return seq.params.max_tokens == 0


def _num_scored(seq: Seq, start: int, end: int) -> int:
    """Of its tokens [start, end), the first ones after which it is wanted how likely the prompt's next token is."""
    if not seq.num_unscored_tokens or end < seq.num_scored_tokens:
        return 0
    return max(min(end, len(seq.prompt_token_ids) - 1) - start, 0)


def _prompt_row(seq: Seq, chunk: int, start: int, num_scored: int) -> PromptRow:
    token_ids = seq.prompt_token_ids[start + 1 : start + 1 + num_scored]
    return PromptRow(chunk=chunk, next_token_ids=token_ids, num_top=seq.params.prompt_logprobs or 0)


def keep_right(
    chunks: Sequence[ScheduledChunk],
    owners: Sequence[tuple[int, int]],
    sampled: Sequence[Sequence[Sampled]],
    block_size: int,
) -> list[tuple[int, int]]:
    """Notes in the chunks of a step which of their drafts were right; what has to be copied, by `out_of_place`.

    Args:
        owners: Of each row of `sampled`: (number of the chunk, choice).
    """
    moves: list[tuple[int, int]] = []
    for (index, _), run in zip(owners, sampled, strict=True):
        if len(run) > 1:
            chunk = chunks[index]
            chunk.right = chunk.draft.follow([token.token_id for token in run[:-1]])
            moves += out_of_place(chunk, block_size)
    return moves


def out_of_place(chunk: ScheduledChunk, block_size: int) -> list[tuple[int, int]]:
    """Of a computed tree whose `right` tokens are known: (place where a token's KV is, place where it belongs)."""
    if not chunk.draft.parents:
        return []
    first, block_ids = chunk.seq.num_tokens, chunk.seq.block_ids  # the tree's tokens lie from `first` on

    def place(position: int) -> int:
        return block_ids[position // block_size] * block_size + position % block_size

    return [(place(first + at), place(first + index)) for index, at in enumerate(chunk.right) if at != index]


def cut(
    seq: Seq, sampled: Sequence[Sampled], runner: ModelRunner, forks: bool = False
) -> tuple[Sequence[Sampled], End | None]:
    """Of the tokens of one step those up to the one that ends the answer, and how it ends; None: it goes on.

    Args:
        forks: The tokens are of one of several choices: of what follows the sequence, nothing goes on with them.
    Raises: BatonError: its grammar can be followed no longer.
    """
    follower = seq.follower
    if follower is not None:
        follower = follower.copy() if forks else follower
        follower.sync(seq.output_token_ids)
        follower.check()
    for index, token in enumerate(sampled):
        end = _end(seq, token.token_id, index, runner, follower)
        if end is not None:
            return sampled[: index + 1], end
    return sampled, None


def _end(seq: Seq, token_id: int, num_before: int, runner: ModelRunner, follower: Follower | None) -> End | None:
    """Whether `token_id` ends the answer; it and the `num_before` tokens before it are not yet appended."""
    params = seq.params
    num_outputs = len(seq.output_token_ids) + num_before + 1
    if num_outputs >= params.min_tokens:
        if token_id in params.stop_token_ids:
            return End(FinishReason.STOP, str(token_id))
        if not params.ignore_eos and token_id in runner.eos_token_ids:
            return End(FinishReason.STOP)
    if follower is not None:
        if token_id in follower.eos_token_ids:  # the masks allow it where nothing else is left, whatever is asked for
            return End(FinishReason.STOP)
        if follower.take(token_id):
            return End(FinishReason.STOP, is_after=True)
    if num_outputs >= params.max_tokens or seq.num_tokens + num_before + 1 >= runner.max_model_len:
        return End(FinishReason.LENGTH)
    return None


def unservable(seq: Seq, runner: ModelRunner, block_size: int, *, handing_over: bool) -> BatonError | None:
    """Why this worker can never serve `seq`, or None."""
    if not seq.prompt_token_ids:
        return InvalidRequestError("prompt: empty; give at least one token", "prompt")
    biased = (token_id for token_id, _ in seq.params.logit_bias)
    for name, highest in (
        ("prompt", max(seq.prompt_token_ids)),
        ("choices", max(seq.output_token_ids, default=0)),
        ("logit_bias", max(biased, default=0)),
    ):
        if highest >= runner.vocab_size:
            return InvalidRequestError(
                f"{name}: token id {highest} is not in the vocabulary of {runner.vocab_size}", name
            )
    return too_long(
        seq,
        max_model_len=runner.max_model_len,
        num_blocks=runner.num_blocks,
        block_size=block_size,
        handing_over=handing_over,
    )


def too_long(
    seq: Seq, *, max_model_len: int, num_blocks: int, block_size: int, handing_over: bool
) -> BatonError | None:
    """Of `unservable` what lengths alone decide. A worker that hands over holds the prompt and one token."""
    if seq.num_tokens + (not writes_nothing(seq)) > max_model_len:
        return InvalidRequestError(
            f"prompt: {seq.num_tokens} tokens, but the model takes {max_model_len} with at least one to write; "
            "shorten it",
            "prompt",
        )
    max_tokens = min(1, seq.params.max_tokens) if handing_over else seq.params.max_tokens - len(seq.output_token_ids)
    needed = -(-min(seq.num_tokens + max_tokens, max_model_len) // block_size)
    if needed > num_blocks:
        return InvalidRequestError(
            f"prompt: with max_tokens it needs {needed} blocks of {block_size} tokens, a worker has "
            f"{num_blocks}; shorten it, lower max_tokens or raise engine.memory",
            "prompt",
        )
    return None
