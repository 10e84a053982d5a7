"""What draft tokens mean to a runner: more rows to sample from, and afterwards how many of them count.

Invariant: what `accept` keeps is what sampling one token a step would have given, in greedy decoding and otherwise:
each row that counts was sampled after tokens that are all accepted. No logits here: those are the sampler's.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from workers.model.contract import Sampled, SampleRow


def single_rows(rows: Sequence[SampleRow]) -> Sequence[SampleRow]:
    """The rows with a place for each token: every row, followed by one for each of its draft tokens.

    In each, the draft tokens before its place are output, so that penalties, `min_tokens` and seeds see them.
    """
    if not any(row.draft_token_ids for row in rows):
        return rows
    return [single for row in rows for single in _singles(row)]


def _singles(row: SampleRow) -> Iterator[SampleRow]:
    if not row.draft_token_ids:
        yield row
        return
    for num_before in range(len(row.draft_token_ids) + 1):
        yield SampleRow(
            chunk=row.chunk,
            choice=row.choice,
            params=row.params,
            prompt_token_ids=row.prompt_token_ids,
            output_token_ids=[*row.output_token_ids, *row.draft_token_ids[:num_before]],
        )


def accept(rows: Sequence[SampleRow], sampled: Sequence[Sampled]) -> list[list[Sampled]]:
    """For each row its tokens up to the first that differs from the draft at its place.

    Args:
        sampled: One token for each of `single_rows(rows)`.
    """
    rest = iter(sampled)
    return [_accepted(row.draft_token_ids, list(islice(rest, len(row.draft_token_ids) + 1))) for row in rows]


def _accepted(draft_token_ids: Sequence[int], sampled: list[Sampled]) -> list[Sampled]:
    for index, token_id in enumerate(draft_token_ids):
        if sampled[index].token_id != token_id:
            return sampled[: index + 1]
    return sampled
