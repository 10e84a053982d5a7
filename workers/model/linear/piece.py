"""One of several contiguous pieces of a prompt, each worked on by another rank."""

from typing import Protocol

from torch import Tensor

from workers.model.linear.chunks import Chunks, cut, join
from workers.model.linear.effect import Effect, no_effect
from workers.model.linear.kernels import Kernel, kernel_for
from workers.model.linear.scan import empty_outputs, segments_of


class Piece(Protocol):
    """What `scan` does at once, in steps; each once, in this order, `effect` where it is needed."""

    def effect(self) -> Effect:
        """What the piece makes of any state before it."""

    def prepare(self) -> None:
        """Do ahead what does not depend on the state before, while that is on its way."""

    def advance(self, state: Tensor) -> Tensor:
        """From the state before the piece, which is left as it is, to the state after."""

    def outputs(self) -> Tensor:
        """[T, H, d_v] in v's dtype."""


def make_piece(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, like: Tensor) -> Piece:
    """Takes what `workers.model.linear.scan` takes; of the state before, its shape and device alone."""
    kernel = kernel_for(q, log_decay, beta)
    if kernel is None:
        return CutPiece(q, k, v, log_decay, beta, like)
    return KernelPiece(kernel, q, k, v, log_decay, beta, like)


class CutPiece:
    """By chunks; what was found for `effect` is used again for the outputs."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, like: Tensor
    ) -> None:
        self._v = v
        self._no_effect = no_effect(log_decay, beta, like)
        self._parts: list[tuple[slice, Chunks]] = []
        for part in segments_of(len(q), q.shape[1]):
            decays, betas = (None if x is None else x[part] for x in (log_decay, beta))
            self._parts.append((part, cut(q[part], k[part], v[part], decays, betas)))

    def effect(self) -> Effect:
        effect = self._no_effect
        for _, chunks in self._parts:
            effect = chunks.followed(effect)
        return effect

    def prepare(self) -> None:
        for _, chunks in self._parts:
            chunks.prepare()

    def advance(self, state: Tensor) -> Tensor:
        for _, chunks in self._parts:
            state = chunks.advance(state)
        return state

    def outputs(self) -> Tensor:
        out = empty_outputs(self._v)
        while self._parts:  # each is let go as soon as it is used: they are large
            part, chunks = self._parts.pop(0)
            join(chunks.outputs(), out[part])
        return out


class KernelPiece:
    """By a kernel from a state to the one after: it runs once or twice for the effect, and again for the outputs."""

    def __init__(
        self,
        kernel: Kernel,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        beta: Tensor | None,
        like: Tensor,
    ) -> None:
        self._kernel, self._like = kernel, like
        self._q, self._k, self._v, self._log_decay, self._beta = q, k, v, log_decay, beta
        self._out: Tensor | None = None

    def effect(self) -> Effect:
        before = no_effect(self._log_decay, self._beta, self._like)
        if self._beta is None:
            contribution, transition = self._after(self._v, before.contribution), before.transition
            if self._log_decay is not None and transition is not None:
                transition = self._log_decay.float().sum(0).exp().view(transition.shape)
            return Effect(contribution=contribution, transition=transition)
        assert before.transition is not None
        # With values of 0, a state of 1 becomes the transition.
        zeros = self._v.new_zeros((*self._v.shape[:2], self._k.shape[-1]))
        contribution, transition = self._after(self._v, before.contribution), self._after(zeros, before.transition)
        return Effect(contribution=contribution, transition=transition)

    def _after(self, v: Tensor, state: Tensor) -> Tensor:
        return self._kernel(self._q, self._k, v, self._log_decay, self._beta, state)[1]

    def prepare(self) -> None:
        """Nothing: the kernel does all at once."""

    def advance(self, state: Tensor) -> Tensor:
        self._out, after = self._kernel(self._q, self._k, self._v, self._log_decay, self._beta, state)
        return after

    def outputs(self) -> Tensor:
        assert self._out is not None, "outputs before advance"
        return self._out
