"""A decoder layer in two halves: its attention, which may be computed elsewhere and early, and the rest of it.

Any layer whose code calls `self_attn` once and goes on with its answer: norms before or after it, multipliers and
residuals are the layer's own code, which runs as it is.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

Arguments = Mapping[str, Any]  # what the model gives the layer beside hidden states


class Halves(Protocol):
    def attention(self, x: Tensor, arguments: Arguments) -> Tensor:
        """What the layer's attention answers where x is the layer's input; [1, T, width] both. x stays as it is."""
        ...

    def rest(self, x: Tensor, found: Tensor, arguments: Arguments) -> Tensor:
        """The layer's output for the input x if its attention has answered `found`. x may be changed."""
        ...


class _Reached(Exception):
    def __init__(self, found: Tensor) -> None:
        self.found = found


class _Given(nn.Module):
    """In place of a layer's attention: answers what it is given, or stops the layer with what attention finds."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner = attention
        self.answer: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        if self.answer is None:
            raise _Reached(self.inner(*args, **kwargs)[0])
        return self.answer, None


class PlainHalves(nn.Module):
    """By the layer's own code. `attention` only where this rank has it."""

    def __init__(self, layer: Any, *, has_attention: bool) -> None:
        super().__init__()
        self.has_attention = has_attention
        self.given = _Given(layer.self_attn)
        layer.self_attn = self.given
        self.layer = layer

    def attention(self, x: Tensor, arguments: Arguments) -> Tensor:
        try:
            self.layer(x, **arguments)
        except _Reached as reached:
            return reached.found
        raise AssertionError(f"{type(self.layer).__name__} did not call its attention")

    def rest(self, x: Tensor, found: Tensor, arguments: Arguments) -> Tensor:
        self.given.answer = found
        try:
            out: Tensor = self.layer(x, **arguments)
            return out
        finally:
            self.given.answer = None
