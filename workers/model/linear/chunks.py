"""A run of tokens cut into chunks: what does not depend on the state before is found for all chunks at once, then the
state is carried from chunk to chunk.

The delta rule's chunk is its WY form: with A the decayed products k_i k_j below the diagonal, what is added to the
state for key k_i is row i of U - W S, where [U | W] = (I + beta A)^-1 beta [V | K decayed from the chunk's start].
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.model.linear.decay import ChunkDecay, chunk_decay
from workers.model.linear.effect import Effect

CHUNK = 64  # tokens
LEAST_CHUNK = 8
TINY = 1e-30  # of a transition that decays: taken as 0, before products with denormal numbers take most of the time


class Chunks(Protocol):
    """A state is [H, d_k, d_v] float32; one that is given is left as it is. Each method but `followed` is called once,
    in the order in which they stand.
    """

    def followed(self, before: Effect) -> Effect:
        """What the tokens before, whose effect is given, and these do together."""

    def prepare(self) -> None:
        """Do ahead what does not depend on the state."""

    def advance(self, state: Tensor) -> Tensor:
        """From the state before the first token to the one after the last."""

    def outputs(self) -> Tensor:
        """[N, H, C, d_v], from the state that `advance` was given."""


class PlainChunks:
    """S <- decayed S + K^T V."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, decay: ChunkDecay) -> None:
        """q, k: [N, H, C, d_k]; v: [N, H, C, d_v]; float32."""
        self._q, self._k, self._v, self._decay = q, k, v, decay
        self._added = torch.matmul(decay.to_end(k).mT, v)  # [N, H, d_k, d_v]
        self._out: Tensor | None = None
        self._before = k.new_empty(0)  # [N, H, d_k, d_v]: the state before each chunk

    def followed(self, before: Effect) -> Effect:
        state, whole = before.contribution.clone(), self._decay.whole()
        for number, added in enumerate(self._added):
            self._decay.over_chunk_(state, number)
            state += added
        if whole is None or before.transition is None:
            return Effect(contribution=state, transition=None)
        return Effect(contribution=state, transition=before.transition * whole[..., None])

    def prepare(self) -> None:
        if self._out is None:
            self._out = torch.matmul(self._decay.pairs(self._q, self._k), self._v)

    def advance(self, state: Tensor) -> Tensor:
        state, self._before = state.clone(), torch.empty_like(self._added)
        for number, added in enumerate(self._added):
            self._before[number] = state
            self._decay.over_chunk_(state, number)
            state += added
        return state

    def outputs(self) -> Tensor:
        self.prepare()
        assert self._out is not None
        return _add_product(self._out, self._decay.from_start(self._q), self._before)


class DeltaChunks:
    """S <- decayed S + K^T (U - W S)."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, decay: ChunkDecay, beta: Tensor) -> None:
        """q, k: [N, H, C, d_k]; v: [N, H, C, d_v]; beta: [N, H, C]; float32."""
        self._q, self._k, self._decay = q, k, decay
        lower = decay.pairs(k, k).mul_(beta[..., None])
        one = torch.eye(k.shape[2], device=k.device).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, one, upper=False, unitriangular=True).mul_(beta[:, :, None])
        self._u, self._w = torch.matmul(inverse, v), torch.matmul(inverse, decay.from_start(k))
        self._keys = decay.to_end(k).mT
        self._pairs: Tensor | None = None
        self._before = k.new_empty(0)

    def followed(self, before: Effect) -> Effect:
        assert before.transition is not None
        state, kept = before.contribution.clone(), before.transition.clone()
        for number in range(len(self._u)):
            self._step_(state, torch.baddbmm(self._u[number], self._w[number], state, alpha=-1), number)
            # The transition is carried as a state to which nothing is added.
            self._step_(kept, torch.bmm(self._w[number], kept).neg_(), number)
            kept = F.hardshrink(kept, TINY)
        return Effect(contribution=state, transition=kept)

    def prepare(self) -> None:
        if self._pairs is None:
            self._pairs = self._decay.pairs(self._q, self._k)

    def advance(self, state: Tensor) -> Tensor:
        state, self._before = state.clone(), state.new_empty((len(self._u), *state.shape))
        for number, added in enumerate(self._u):
            self._before[number] = state
            self._step_(state, added.baddbmm_(self._w[number], state, alpha=-1), number)
        return state

    def outputs(self) -> Tensor:
        self.prepare()
        assert self._pairs is not None
        return _add_product(torch.matmul(self._pairs, self._u), self._decay.from_start(self._q), self._before)

    def _step_(self, state: Tensor, added: Tensor, number: int) -> None:
        """The state becomes that after a chunk, given what is added for each key."""
        self._decay.over_chunk_(state, number)
        state.baddbmm_(self._keys[number], added)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """out + left @ right, in place; [N, H, ...]."""
    torch.baddbmm(out.flatten(0, 1), left.flatten(0, 1), right.flatten(0, 1), out=out.flatten(0, 1))
    return out


def cut(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> Chunks:
    """Of tensors as `workers.model.linear.scan.scan` takes them, one token or more."""
    size = _chunk_size(q.shape[0])
    decay = chunk_decay(None if log_decay is None else _cut(log_decay, size))
    rows = _cut(q, size), _cut(k, size), _cut(v, size)
    return PlainChunks(*rows, decay) if beta is None else DeltaChunks(*rows, decay, _cut(beta, size))


def _chunk_size(num_tokens: int) -> int:
    size = LEAST_CHUNK
    while size < min(num_tokens, CHUNK):
        size *= 2
    return size


def _cut(x: Tensor, size: int) -> Tensor:
    """[T, H, ...] -> [N, H, size, ...] float32, with zeros after the last token: such tokens change no state.

    A view where it can be: a product reads its rows wherever they lie.
    """
    if len(x) % size:
        x = torch.cat([x, x.new_zeros((size - len(x) % size, *x.shape[1:]))])
    return x.reshape(-1, size, *x.shape[1:]).transpose(1, 2).float()


def join(chunks: Tensor, out: Tensor) -> None:
    """[N, H, C, d] -> [T, H, d], the inverse of `_cut`."""
    rows = chunks.transpose(1, 2)
    if len(out) == rows.shape[0] * rows.shape[1]:
        out.view(rows.shape).copy_(rows)
    else:
        out.copy_(rows.flatten(0, 1)[: len(out)])
