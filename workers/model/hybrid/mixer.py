"""A layer of linear attention as Baton runs it: the model's own weights around a convolution and a recurrence.

The projections, gates and norms are the module's; the convolution over a sequence's last inputs and the recurrence over
its state are the step's, which knows where each sequence of the batch keeps them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from workers.model.state_shape import StatePart, StateShape


class Recurrence(NamedTuple):
    """What `workers.model.linear` takes of T tokens: heads are as many as the state has."""

    q: Tensor  # [T, H, d_k]
    k: Tensor  # [T, H, d_k]
    v: Tensor  # [T, H, d_v]
    log_decay: Tensor | None  # [T, H] or [T, H, d_k], float32
    beta: Tensor | None  # [T, H]; None: no delta rule


class LinearStep(Protocol):
    """One forward pass, as a layer of linear attention sees it."""

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        """Each token's inputs [T, channels] with those before it in its sequence, in x's dtype; no activation."""
        ...

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        """[T, H, d_v] in v's dtype; the states are those after the batch when this returns, but those of chunks that
        end in drafts, which are as before until `settle`."""
        ...

    def settle(self, num_tokens: Mapping[int, int]) -> None:
        """Once, after the last layer: the states of chunks that end in drafts become those after their first tokens.

        Args:
            num_tokens: By slot: how many tokens of the chunk count, >= 1.
        """
        ...


class Mixer:
    """In place of the `forward` of `module`.

    Subclasses say what the state is (`shape`), and how hidden states become a recurrence and its output theirs
    (`mix`). Sizes are read from the module's weights, so that a module with a share of the heads works alike.
    """

    shape: StateShape
    is_delta = False  # whether a token's effect on the state depends on the state

    def __init__(self, module: Any) -> None:
        self.module = module
        self.layer: int = module.layer_idx

    def __call__(self, hidden_states: Tensor, *_: Any, step: LinearStep, **__: Any) -> Any:
        """Hidden states [1, T, width]."""
        return self.mix(hidden_states[0], step)[None]

    def mix(self, x: Tensor, step: LinearStep) -> Tensor:
        """[T, width] from [T, width]"""
        raise NotImplementedError


def mixers_of(model: nn.Module) -> list[Mixer]:
    """Those in place of the `forward` of its layers of linear attention."""
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    return [forward for forward in forwards if isinstance(forward, Mixer)]


def recurrent(num_heads: int, d_k: int, d_v: int) -> StatePart:
    return StatePart("recurrent", num_heads, (d_k, d_v), torch.float32)


def conv_inputs(name: str, convolution: nn.Conv1d, num_heads: int, head_dim: int) -> StatePart:
    """The part of a convolution's inputs that becomes `name`."""
    num_inputs = convolution.kernel_size[0] - 1
    return StatePart(f"conv.{name}", num_heads, (num_inputs, head_dim), convolution.weight.dtype)


def activation(module: Any) -> nn.Module:
    """Of the convolution's output."""
    from transformers.activations import ACT2FN

    found: nn.Module = ACT2FN[module.activation]
    return found


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Of length 1 along the last dimension, in float32."""
    x = x.float()
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + eps)


def spread(x: Tensor, num_heads: int) -> Tensor:
    """[T, groups, dim] to [T, num_heads, dim]: each group for the heads that share it."""
    groups = x.shape[1]
    return x if groups == num_heads else x[:, :, None].expand(-1, -1, num_heads // groups, -1).flatten(1, 2)
