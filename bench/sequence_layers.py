"""Layers of `bench.sequence_parallel`, as the families have them, with random weights: projections, short convolution,
recurrence or attention, gate and output. float32.
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.parallel.gathering import SequenceRanks
from workers.parallel.halo import Halo
from workers.parallel.sequence import LastState
from workers.parallel.softmax import KeysAndValues, causal_attention

# As `workers.parallel.sequence.linear_attention`.
Recur = Callable[
    [SequenceRanks, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor], tuple[Tensor, LastState]
]


class Decay(enum.Enum):
    CONSTANT = "constant"  # one number per head
    SCALAR = "scalar"  # per head and token
    VECTOR = "vector"  # per head, token and key dimension


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A linear layer of hidden size 1024; `scaled` makes others.

    Attributes:
        num_groups: Of keys and queries, each shared by num_heads / num_groups heads.
        reach: Of the convolution: its kernel's size - 1; 0: there is none.
    """

    num_heads: int
    d_k: int
    d_v: int
    decay: Decay
    num_groups: int
    is_delta: bool = False
    reach: int = 0

    @property
    def num_effect_floats(self) -> int:
        """Of what a rank tells the others per layer."""
        kept = {Decay.VECTOR: self.d_k}.get(self.decay, 1)
        return self.num_heads * (self.d_k * self.d_v + (self.d_k**2 if self.is_delta else kept))

    def scaled(self, hidden: int) -> "Shape":
        heads = max(self.num_heads * hidden // 1024, 1)
        return dataclasses.replace(self, num_heads=heads, num_groups=min(self.num_groups, heads))


SHAPES = {
    "lightning": Shape(num_heads=8, d_k=128, d_v=128, decay=Decay.CONSTANT, num_groups=8),
    "mamba2": Shape(num_heads=32, d_k=128, d_v=64, decay=Decay.SCALAR, num_groups=1, reach=3),
    "gla": Shape(num_heads=4, d_k=128, d_v=256, decay=Decay.VECTOR, num_groups=4),
    "gated_delta": Shape(num_heads=8, d_k=128, d_v=128, decay=Decay.SCALAR, num_groups=8, is_delta=True, reach=3),
    "kda": Shape(num_heads=8, d_k=128, d_v=128, decay=Decay.VECTOR, num_groups=8, is_delta=True, reach=3),
}
SOFTMAX = "softmax"
KINDS = (*SHAPES, SOFTMAX)
HEAD_DIM, QUERIES_PER_KEY = 128, 4  # of softmax layers


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands: its group, the lengths of all pieces, and how recurrences pass their state."""

    ranks: SequenceRanks
    lengths: Sequence[int]
    recur: Recur


class Layer(Protocol):
    def __call__(self, x: Tensor, place: Place) -> Tensor:
        """[n, hidden] -> [n, hidden], of this rank's piece."""


def make_layer(kind: str, hidden: int, seed: int) -> Layer:
    random = torch.Generator().manual_seed(seed)
    return SoftmaxLayer(hidden, random) if kind == SOFTMAX else LinearLayer(SHAPES[kind].scaled(hidden), hidden, random)


def weight(num_out: int, num_in: int, random: torch.Generator) -> Tensor:
    return torch.randn(num_out, num_in, generator=random).div_(num_in**0.5)


class LinearLayer:
    """Keeps what `last_states` gives until it is asked."""

    def __init__(self, shape: Shape, hidden: int, random: torch.Generator) -> None:
        self._shape = shape
        keys, values = shape.num_groups * shape.d_k, shape.num_heads * shape.d_v
        self._ends = keys, 2 * keys
        self._width = 2 * keys + values
        num_decays = shape.num_heads * (shape.d_k if shape.decay is Decay.VECTOR else 1)
        self._mixed = weight(self._width, hidden, random)
        self._gate, self._out = weight(values, hidden, random), weight(hidden, values, random)
        self._decay, self._beta = weight(num_decays, hidden, random), weight(shape.num_heads, hidden, random)
        self._kernel = torch.randn(shape.reach + 1, self._width, generator=random) / 2
        self._state = torch.zeros(shape.num_heads, shape.d_k, shape.d_v)
        self.last: LastState | None = None

    def __call__(self, x: Tensor, place: Place) -> Tensor:
        shape = self._shape
        halo = self._halo(x, place) if shape.reach else None
        mixed, gate = F.linear(x, self._mixed), F.linear(x, self._gate)
        log_decay, beta = self._log_decay(x), F.linear(x, self._beta).sigmoid_() if shape.is_delta else None
        mixed = mixed if halo is None else self._convolved(mixed, halo.wait())
        q, k, v = F.silu(mixed, inplace=True).tensor_split(self._ends, dim=-1)
        q, k = self._heads(q), self._heads(k)
        if shape.is_delta:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        v = v.reshape(-1, shape.num_heads, shape.d_v)
        out, self.last = place.recur(place.ranks, q, k, v, log_decay, beta, self._state)
        out = F.rms_norm(out, (shape.d_v,)).flatten(1)
        gated: Tensor = F.linear(out.mul_(F.silu(gate, inplace=True)), self._out)
        return gated

    def _heads(self, x: Tensor) -> Tensor:
        """[n, num_heads, d_k], a group's keys once for each of its heads."""
        shape = self._shape
        grouped = x.reshape(-1, shape.num_groups, 1, shape.d_k)
        return grouped.expand(-1, -1, shape.num_heads // shape.num_groups, -1).flatten(1, 2)

    def _log_decay(self, x: Tensor) -> Tensor:
        shape = self._shape
        if shape.decay is Decay.CONSTANT:
            return -torch.arange(1, shape.num_heads + 1).div(8 * shape.num_heads).expand(len(x), -1)
        decays = F.logsigmoid(F.linear(x, self._decay)).div_(16)
        return decays.view(-1, shape.num_heads, shape.d_k) if shape.decay is Decay.VECTOR else decays

    def _halo(self, x: Tensor, place: Place) -> Halo:
        last = F.linear(x[-self._shape.reach :], self._mixed)
        return Halo(place.ranks, last, place.lengths, last.new_zeros(self._shape.reach, self._width))

    def _convolved(self, mixed: Tensor, before: Tensor) -> Tensor:
        rows = torch.cat([before, mixed])
        out = rows[: len(mixed)] * self._kernel[0]
        for i in range(1, len(self._kernel)):
            out.addcmul_(rows[i : i + len(mixed)], self._kernel[i])
        return out


class SoftmaxLayer:
    """Grouped heads; no positions are rotated."""

    def __init__(self, hidden: int, random: torch.Generator) -> None:
        self._num_heads = hidden // HEAD_DIM
        self._num_kv_heads = max(self._num_heads // QUERIES_PER_KEY, 1)
        self._query = weight(self._num_heads * HEAD_DIM, hidden, random)
        self._keys_and_values = weight(2 * self._num_kv_heads * HEAD_DIM, hidden, random)
        self._out = weight(hidden, self._num_heads * HEAD_DIM, random)

    def __call__(self, x: Tensor, place: Place) -> Tensor:
        keys, values = F.linear(x, self._keys_and_values).view(len(x), -1, HEAD_DIM).chunk(2, dim=1)
        gathered = KeysAndValues(place.ranks, keys, values, place.lengths)
        query = F.linear(x, self._query).view(len(x), self._num_heads, HEAD_DIM)
        out = causal_attention(query, *gathered.seen(), scale=HEAD_DIM**-0.5)
        return F.linear(out.flatten(1), self._out)


class Stack:
    """Layers with a gated MLP after each, norms before and residuals around."""

    def __init__(self, kinds: Sequence[str], hidden: int) -> None:
        self.layers = [make_layer(kind, hidden, seed) for seed, kind in enumerate(kinds)]
        random = torch.Generator().manual_seed(len(kinds))
        self._up = [weight(2 * 3 * hidden, hidden, random) for _ in kinds]
        self._down = [weight(hidden, 3 * hidden, random) for _ in kinds]

    def __call__(self, x: Tensor, place: Place) -> Tensor:
        for layer, up, down in zip(self.layers, self._up, self._down, strict=True):
            x = x + layer(F.rms_norm(x, x.shape[-1:]), place)
            gate, value = F.linear(F.rms_norm(x, x.shape[-1:]), up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate).mul_(value), down)
        return x


def finish(layers: Sequence[Layer]) -> None:
    """Wait for the states after the prompt, as a hand-over would."""
    for layer in layers:
        if isinstance(layer, LinearLayer) and layer.last is not None:
            layer.last()
