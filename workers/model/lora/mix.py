"""Which rows of a step are of which adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from workers.model.contract import Chunk
from workers.model.cuda.launching import to_device


class Rows(NamedTuple):
    """Of one adapter in a step. `rows`: slice or index; None: all of them."""

    adapter_id: int
    rows: slice | Tensor | None


@dataclass(slots=True)
class Mix:
    """What adapted layers look at; set before each step. Of one thread.

    Attributes:
        parts: Empty: no row has an adapter.
    """

    parts: Sequence[Rows] = ()


def rows_of(chunks: Sequence[Chunk], device: torch.device) -> list[Rows]:
    """By adapter, of chunks whose tokens are packed one after the other. Rows of the bare model are in none."""
    if not any(chunk.adapter_id for chunk in chunks):
        return []
    spans: dict[int, list[tuple[int, int]]] = {}
    end = 0
    for chunk in chunks:
        start, end = end, end + len(chunk.token_ids)
        if chunk.adapter_id:
            spans.setdefault(chunk.adapter_id, []).append((start, end))
    return [Rows(adapter_id, _rows(of_one, end, device)) for adapter_id, of_one in spans.items()]


def _rows(spans: Sequence[tuple[int, int]], num_rows: int, device: torch.device) -> slice | Tensor | None:
    start, end = spans[0][0], spans[-1][1]
    if any(before[1] != after[0] for before, after in pairwise(spans)):
        return to_device(torch.tensor([row for span in spans for row in range(*span)]), device)
    return None if (start, end) == (0, num_rows) else slice(start, end)
