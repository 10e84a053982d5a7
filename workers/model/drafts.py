"""What draft tokens mean to a runner: more rows to sample from, and afterwards how many of them count.

Invariant: what `accept` keeps is what sampling one token a step would have given, in greedy decoding and otherwise:
each row that counts was sampled after tokens that are all accepted. No logits here: those are the sampler's.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from workers.model.contract import Batch, Sampled, SampleRow
from workers.model.trees import path_to


def single_rows(rows: Sequence[SampleRow]) -> Sequence[SampleRow]:
    """The rows with a place for each token: every row, followed by one for each of its draft tokens.

    In each, the draft tokens on the way to its place are output, so that penalties, `min_tokens` and seeds see them.
    """
    if not any(row.draft_token_ids for row in rows):
        return rows
    return [single for row in rows for single in _singles(row)]


def _singles(row: SampleRow) -> Iterator[SampleRow]:
    if not row.draft_token_ids:
        yield row
        return
    for place in range(-1, len(row.draft_token_ids)):
        before = path_to(row.parents, place) if row.parents else range(place + 1)
        yield SampleRow(
            chunk=row.chunk,
            choice=row.choice,
            params=row.params,
            prompt_token_ids=row.prompt_token_ids,
            output_token_ids=[*row.output_token_ids, *(row.draft_token_ids[at] for at in before)],
            is_masked=row.is_masked,
        )


def accept(rows: Sequence[SampleRow], sampled: Sequence[Sampled]) -> list[list[Sampled]]:
    """For each row its tokens: from the root down, as long as what was sampled at a place was drafted after it.

    Args:
        sampled: One token for each of `single_rows(rows)`.
    """
    rest = iter(sampled)
    return [_accepted(row, list(islice(rest, len(row.draft_token_ids) + 1))) for row in rows]


def num_accepted(batch: Batch, found: Sequence[Sequence[Sampled]]) -> dict[int, int]:
    """By slot of a state: how many tokens of a chunk that ends in drafts count, its first and the right ones.

    Args:
        found: What `accept` keeps, of each of the batch's rows.
    """
    chunks = [batch.chunks[row.chunk] for row in batch.samples]
    return {
        chunk.state_id: len(run)
        for chunk, run in zip(chunks, found, strict=True)
        if chunk.num_drafts and chunk.state_id is not None
    }


def _accepted(row: SampleRow, sampled: list[Sampled]) -> list[Sampled]:
    """`sampled`: at the root, then after each draft token."""
    kept = [sampled[0]]
    at = -1
    for place, token_id in enumerate(row.draft_token_ids):
        if token_id == kept[-1].token_id and (row.parents[place] if row.parents else place - 1) == at:
            kept.append(sampled[place + 1])
            at = place
    return kept
