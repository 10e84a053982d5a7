"""Which part of one weight a rank holds, found by comparing the weight's shape in the whole model and in a share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Of a weight of `shape`, the `runs` [start, end) along `dim`, one after the other.

    Attributes:
        num_padded: Rows of zeros after them.
        is_zero: The rank holds zeros in place of the weight: what is added up over the ranks is added once.
    """

    shape: tuple[int, ...]
    dim: int = 0
    runs: tuple[tuple[int, int], ...]
    num_padded: int = 0
    is_zero: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.shape or self.runs == ((0, self.shape[self.dim]),)

    def of(self, weight: Any) -> Tensor:
        """This part of `weight`: a tensor, or what `safetensors` reads slices of a file by."""
        if self.is_whole:
            found: Tensor = weight[:] if self.shape else weight[...]
            return found
        before = (slice(None),) * self.dim
        pieces = [weight[(*before, slice(start, end))] for start, end in self.runs]
        if self.num_padded:
            pieces.append(
                torch.zeros((self.num_padded, *self.shape[1:]), dtype=pieces[0].dtype, device=pieces[0].device)
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=self.dim)

    def places(self, flat: np.ndarray) -> np.ndarray:
        """Where elements of the whole (their flat indices) are in this part, flat too; -1: not in it."""
        if self.is_zero:
            return np.full_like(flat, -1)
        if self.is_whole or not len(flat):
            return flat
        where = list(np.unravel_index(flat, self.shape))
        local = np.full(self.shape[self.dim], -1)
        held = np.concatenate([np.arange(start, end) for start, end in self.runs])
        local[held] = np.arange(len(held))
        where[self.dim] = local[where[self.dim]]
        here = where[self.dim] >= 0
        where[self.dim] = np.where(here, where[self.dim], 0)
        part = list(self.shape)
        part[self.dim] = len(held)
        return np.where(here, np.ravel_multi_index(tuple(where), tuple(part)), -1)


def shard_of(
    name: str, whole: Sequence[int], local: Sequence[int], *, rank: int, size: int, parts: Sequence[tuple[int, int]]
) -> Shard:
    """Args:
    whole, local: The weight's shape in the model and in a rank's share; at most one dimension differs.
    parts: (size in the whole, size in a share) of each part of that dimension, one after the other.
    """
    shape = tuple(whole)
    dim = divided_dim(name, whole, local)
    if dim is None:
        return Shard(shape=shape, runs=((0, shape[0]),) if shape else ())
    parts = parts or ((shape[dim], local[dim]),)
    assert sum(part for part, _ in parts) == shape[dim], f"{name}: parts {parts} do not make {shape[dim]}"
    runs, begin = [], 0
    for part, mine in parts:
        piece = rank * (part // mine) // size  # where fewer KV heads than ranks: several ranks have the same
        runs.append((begin + piece * mine, begin + (piece + 1) * mine))
        begin += part
    return Shard(shape=shape, dim=dim, runs=tuple(runs))


def divided_dim(name: str, whole: Sequence[int], local: Sequence[int]) -> int | None:
    """In which a weight's shape in a share differs from that in the model; None: in none."""
    differing = [dim for dim, (a, b) in enumerate(zip(whole, local, strict=True)) if a != b]
    assert len(differing) <= 1, f"{name} differs from its share in {len(differing)} dimensions"
    return differing[0] if differing else None


def rows_shard(shape: Sequence[int], *, rank: int, size: int) -> Shard:
    """Rows divided as evenly as they go, the last ranks' padded with zeros so that all have as many."""
    num_rows = math.ceil(shape[0] / size)
    start, end = min(rank * num_rows, shape[0]), min((rank + 1) * num_rows, shape[0])
    return Shard(shape=tuple(shape), runs=((start, end),), num_padded=num_rows - (end - start))
