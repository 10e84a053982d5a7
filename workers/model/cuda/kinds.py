"""Which kinds of layers a model has, by what they ask of attention."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.model.attention import PagedMeta, Scoring
from workers.model.fp8 import KVScales, fill_normal


class Kind(NamedTuple):
    """Of layers that are computed alike.

    Args:
        k_cache, v_cache, scales: Of one of them, as in `workers.model.attention`.
        dtype: Of queries.
    """

    k_cache: Tensor
    v_cache: Tensor
    num_heads: int
    scoring: Scoring
    dtype: torch.dtype
    scales: KVScales | None = None


class KindsNoted:
    """Attends to nothing: notes what it is asked, for a model's pass over one token."""

    def __init__(self) -> None:
        self._kinds: dict[Any, Kind] = {}
        self._counts: Counter[Any] = Counter()

    def __call__(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        key = (query.shape[1], k_cache.shape[2:], scoring[:3], scoring.sinks is not None)
        self._kinds.setdefault(key, Kind(k_cache, v_cache, query.shape[1], scoring, query.dtype, scales))
        self._counts[key] += 1
        return torch.zeros_like(query)

    def commonest_first(self) -> list[Kind]:
        return [self._kinds[key] for key, _ in self._counts.most_common()]


@contextmanager
def filled(kinds: Sequence[Kind]) -> Iterator[None]:
    """With random numbers in their blocks, which nobody uses yet; zeros again after it."""
    for kind in kinds:
        fill_normal(kind.k_cache, kind.scales.key if kind.scales else None)
        fill_normal(kind.v_cache, kind.scales.value if kind.scales else None)
    try:
        yield
    finally:
        for kind in kinds:
            kind.k_cache.zero_()
            kind.v_cache.zero_()
