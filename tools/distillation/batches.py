"""Answers as batches of rows of about the same length, in an order drawn anew for each pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tools.distillation.answers import Answer

POOL = 256  # answers that are sorted by length at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids: Tensor  # [rows, longest], filled up with zeros, which no real token looks back at
    places: Tensor  # [places], of the flattened tokens: after which of them the answers' tokens follow
    top_ids: Tensor  # [places, k]
    top_logprobs: Tensor  # [places, k]
    next_ids: Tensor  # [places], the answers' own tokens

    def to(self, device: str) -> "Batch":
        moved = {name: getattr(self, name).to(device) for name in Batch.__dataclass_fields__}
        return Batch(**moved)


def batches(answers: Sequence[Answer], tokens: int, rng: np.random.Generator, num_top: int) -> Iterator[Batch]:
    """One pass over `answers`.

    Args:
        tokens: Of a batch, at most, filling included; a longer answer is one by itself.
        num_top: Of the teacher's likeliest tokens, at each place.
    """
    order = rng.permutation(len(answers))
    for start in range(0, len(order), POOL):
        pool = sorted((answers[index] for index in order[start : start + POOL]), key=lambda one: len(one.token_ids))
        groups = list(_groups(pool, tokens))
        for index in rng.permutation(len(groups)):
            yield collate(groups[index], num_top)


def _groups(answers: Sequence[Answer], tokens: int) -> Iterator[list[Answer]]:
    """`answers`: ascending by length."""
    group: list[Answer] = []
    for answer in answers:
        if group and (len(group) + 1) * len(answer.token_ids) > tokens:
            yield group
            group = []
        group.append(answer)
    if group:
        yield group


def collate(answers: Sequence[Answer], num_top: int) -> Batch:
    longest = max(len(answer.token_ids) for answer in answers)
    token_ids = np.zeros((len(answers), longest), dtype=np.int64)
    places = []
    for row, answer in enumerate(answers):
        token_ids[row, : len(answer.token_ids)] = answer.token_ids
        places.append(row * longest + np.arange(answer.num_prompt - 1, len(answer.token_ids) - 1))
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        places=torch.from_numpy(np.concatenate(places)),
        top_ids=torch.from_numpy(np.concatenate([answer.top_ids[:, :num_top] for answer in answers])),
        top_logprobs=torch.from_numpy(np.concatenate([answer.top_logprobs[:, :num_top] for answer in answers])),
        next_ids=torch.from_numpy(np.concatenate([answer.token_ids[answer.num_prompt :] for answer in answers])),
    )
