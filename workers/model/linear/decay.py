"""What is left of a token's key at a later token of its chunk, for each kind of decay.

All are built from sums of log decays over just the tokens in between: no difference of large sums, whose rounding would
be the size of a gate near 1, and no exponent above 0, which could overflow. Shapes: a chunked tensor is
[N, H, C, d], chunks, heads, tokens of a chunk (a power of 2), width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# exp() of it is 0 in float32, and sums of it stay finite: a gate of 0 may come as -inf.
LEAST_LOG_DECAY = -1e4


class ChunkDecay(Protocol):
    """Decays inside each chunk; `rows` and `keys` are chunked tensors of width d_k."""

    def from_start(self, rows: Tensor) -> Tensor:
        """Rows times what is left, at each, of the state before the chunk; a new tensor, or `rows`."""

    def to_end(self, keys: Tensor) -> Tensor:
        """Keys times what is left of each at the chunk's end; a new tensor, or `keys`."""

    def over_chunk_(self, state: Tensor, number: int) -> None:
        """[H, d_k, x]: the state becomes what is left of it after a chunk."""

    def whole(self) -> Tensor | None:
        """[H, 1] or [H, d_k]: the product over all chunks; None: always 1."""

    def pairs(self, rows: Tensor, keys: Tensor) -> Tensor:
        """[N, H, C, C]: products of rows with keys, decayed; 0 above the diagonal; a new tensor."""


class NoDecay:
    """alpha is 1."""

    def from_start(self, rows: Tensor) -> Tensor:
        return rows

    def to_end(self, keys: Tensor) -> Tensor:
        return keys

    def over_chunk_(self, state: Tensor, number: int) -> None:
        pass

    def whole(self) -> None:
        return None

    def pairs(self, rows: Tensor, keys: Tensor) -> Tensor:
        return torch.matmul(rows, keys.mT).tril_()


class ScalarDecay:
    """One alpha per head and token.

    Args:
        log_decay: [N, H, C] float32, <= 0.
    """

    def __init__(self, log_decay: Tensor) -> None:
        # Sums in float64: what two of them differ by is exact to float32 however large they are.
        sums = self._sums = log_decay.clamp(min=LEAST_LOG_DECAY).double().cumsum(-1)
        between = (sums[..., :, None] - sums[..., None, :]).float().clamp_(max=0)
        self._between = factors(between).tril_()  # [N, H, C, C]
        self._from_start = factors(sums.float())[..., None]
        self._total = self._from_start[..., -1:, :]  # [N, H, 1, 1]

    def from_start(self, rows: Tensor) -> Tensor:
        return rows * self._from_start

    def to_end(self, keys: Tensor) -> Tensor:
        return keys * factors((self._sums[..., -1:] - self._sums).float())[..., None]

    def over_chunk_(self, state: Tensor, number: int) -> None:
        state.mul_(self._total[number])

    def whole(self) -> Tensor:
        return factors(self._sums[..., -1:].sum(0).float())

    def pairs(self, rows: Tensor, keys: Tensor) -> Tensor:
        return torch.matmul(rows, keys.mT).mul_(self._between)


class VectorDecay:
    """One alpha per head, token and key dimension.

    Products of a row and a key, each decayed, cannot be one matrix product unless the decay splits into a row's part
    and a key's. It does across a boundary between them: the key's up to there, and the row's from there. So pairs are
    found in blocks, half a chunk's rows with the other half's keys, then quarters inside each half, and so on.

    Down to blocks in which all decays together are no less than e^-MOST: there the middle is a boundary for all pairs,
    since what must be undone for those on one side of it is within e^(MOST / 2).

    Args:
        log_decay: [N, H, C, d_k] float32, <= 0.
    """

    MOST = 40.0

    def __init__(self, log_decay: Tensor) -> None:
        forward = log_decay.clamp(min=LEAST_LOG_DECAY)
        backward = torch.zeros_like(forward)
        self._base = self._largest_block(forward)
        self._direct: Tensor | None = None
        self._levels: list[tuple[int, Tensor, Tensor]] = []
        half = 1
        while half < log_decay.shape[-2]:
            # In blocks of `half`: sums over a block's tokens up to each (it too), and over those after each.
            sums, rest = (_halves(x, half) for x in (forward, backward))
            if 2 * half == self._base:
                self._direct = torch.cat([-rest[..., 0, :, :], sums[..., 1, :, :]], dim=-2).exp_()
            elif half >= self._base:
                self._levels.append((half, factors(sums[..., 1, :, :].clone()), factors(rest[..., 0, :, :].clone())))
            first, second = sums[..., 0, -1:, :].clone(), sums[..., 1, -1:, :].clone()
            sums[..., 1, :, :] += first
            rest[..., 0, :, :] += second
            half *= 2
        totals = forward[..., -1, :]  # [N, H, d_k]
        self._total = factors(totals.clone())[..., None]
        self._whole = factors(totals.double().sum(0).float())
        self._from_start = factors(forward)
        self._to_end = factors(backward)

    def _largest_block(self, log_decay: Tensor) -> int:
        size = log_decay.shape[-2]
        while size > 1 and _blocks(log_decay, size).sum(-2).min() < -self.MOST:
            size //= 2
        return size

    def from_start(self, rows: Tensor) -> Tensor:
        return rows * self._from_start

    def to_end(self, keys: Tensor) -> Tensor:
        return keys * self._to_end

    def over_chunk_(self, state: Tensor, number: int) -> None:
        state.mul_(self._total[number])

    def whole(self) -> Tensor:
        return self._whole

    def pairs(self, rows: Tensor, keys: Tensor) -> Tensor:
        found = self._in_blocks(rows, keys)
        for half, from_boundary, to_boundary in self._levels:
            before = _halves(keys, half)[..., 0, :, :] * to_boundary
            after = _halves(rows, half)[..., 1, :, :] * from_boundary
            _below_diagonal(found, half).copy_(torch.matmul(after, before.mT))
        return found

    def _in_blocks(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Pairs inside each block of `_base`; 0 elsewhere."""
        if self._direct is None:  # blocks of one token: no decay in between
            return torch.diag_embed((rows * keys).sum(-1))
        size = rows.shape[-2]
        mine, theirs = _blocks(rows, self._base) * self._direct, _blocks(keys, self._base) / self._direct
        found = torch.matmul(mine, theirs.mT).tril_()  # [N, H, blocks, base, base]
        if self._base == size:
            return found[:, :, 0]
        placed = rows.new_zeros(*rows.shape[:-1], size)
        placed.view(*rows.shape[:2], *found.shape[2:4], *found.shape[2:3], self._base).diagonal(dim1=2, dim2=4).copy_(
            found.movedim(2, -1)
        )
        return placed


def factors(log_decay: Tensor) -> Tensor:
    """exp, in place, and 0 below e^-40: far less than float32 tells beside 1. So neither these nor products of two are
    denormal numbers, which processors multiply a hundred times slower.
    """
    return F.threshold(log_decay, -40.0, -torch.inf, inplace=True).exp_()


def _blocks(x: Tensor, size: int) -> Tensor:
    """[N, H, C, d] viewed as [N, H, blocks, size, d]."""
    return x.view(*x.shape[:-2], -1, size, x.shape[-1])


def _halves(x: Tensor, half: int) -> Tensor:
    """[N, H, C, d] viewed as [N, H, blocks, 2, half, d]."""
    return x.view(*x.shape[:-2], -1, 2, half, x.shape[-1])


def _below_diagonal(x: Tensor, half: int) -> Tensor:
    """[N, H, C, C] viewed as [N, H, blocks, half, half]: in each diagonal block of 2 x half, its lower left quarter."""
    num = x.shape[-1] // (2 * half)
    blocks = x.view(*x.shape[:2], num, 2, half, num, 2, half)
    return blocks[:, :, :, 1, :, :, 0, :].diagonal(dim1=2, dim2=4).movedim(-1, 2)


def chunk_decay(log_decay: Tensor | None) -> ChunkDecay:
    """Of log decays by chunks: [N, H, C], [N, H, C, d_k], or None."""
    if log_decay is None:
        return NoDecay()
    return ScalarDecay(log_decay) if log_decay.dim() == 3 else VectorDecay(log_decay)
