"""What a run of tokens makes of the state before it: state after = transition x state before + contribution.

Its size does not depend on how many tokens there are.
"""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """float32.

    Attributes:
        contribution: [H, d_k, d_v], the state after if that before were 0.
        transition: [H, d_k, d_k], a product of matrices, for the delta rule; else [H, d_k, 1] or [H, 1, 1], multiplied
            elementwise, or None: 1.
    """

    contribution: Tensor
    transition: Tensor | None

    def after(self, state: Tensor) -> Tensor:
        """A new tensor."""
        if self.transition is None:
            return state + self.contribution
        if self.transition.shape[-2:] == (state.shape[-2],) * 2:
            return torch.baddbmm(self.contribution, self.transition, state)
        return torch.addcmul(self.contribution, self.transition, state)

    def packed(self) -> Tensor:
        """Flat, as ranks send it."""
        parts = [self.contribution] if self.transition is None else [self.contribution, self.transition]
        return torch.cat([part.reshape(-1) for part in parts])

    def unpacked(self, flat: Tensor) -> "Effect":
        """Another of the same shapes."""
        size = self.contribution.numel()
        transition = None if self.transition is None else flat[size:].view(self.transition.shape)
        return Effect(contribution=flat[:size].view(self.contribution.shape), transition=transition)


def fold(effects: Iterable[Effect], state: Tensor) -> Tensor:
    """The state after all of them, in order; `state` itself after none."""
    for effect in effects:
        state = effect.after(state)
    return state


def no_effect(log_decay: Tensor | None, beta: Tensor | None, like: Tensor) -> Effect:
    """Of no token, for inputs as `workers.model.linear.scan` takes them and states like `like`."""
    heads, d_k, _ = like.shape
    contribution = torch.zeros_like(like)
    if beta is not None:
        one = torch.eye(d_k, dtype=like.dtype, device=like.device).repeat(heads, 1, 1)
        return Effect(contribution=contribution, transition=one)
    if log_decay is None:
        return Effect(contribution=contribution, transition=None)
    width = d_k if log_decay.dim() == 3 else 1
    return Effect(contribution=contribution, transition=like.new_ones(heads, width, 1))
