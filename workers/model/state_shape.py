"""What a layer of linear attention keeps of a sequence: parts of fixed size, whatever the sequence's length.

Heads come first in a part, so that a share of them is one piece of memory.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StatePart:
    """Attributes:
    name: Its kind and, of the convolution's inputs, what they become: "recurrent", "conv.q".
    num_heads: What it can be split by.
    shape: Of one head.
    """

    name: str
    num_heads: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.num_heads * math.prod(self.shape) * self.dtype.itemsize

    @property
    def layout(self) -> str:
        """With {heads} where they are named, as `workers.model.kv_rows` has it."""
        sizes = "x".join(map(str, self.shape))
        return f"state/{self.name}/heads={{heads}}/{sizes}/{str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True, slots=True)
class StateShape:
    """Attributes:
    parts: The recurrence's state, [heads, d_k, d_v] in float32; then the short convolution's last inputs, if there
        is one: [heads, inputs, channels of a head] each, in the model's dtype, in the order of its channels.
    """

    parts: tuple[StatePart, ...]

    @property
    def nbytes(self) -> int:
        """Of one sequence."""
        return sum(part.nbytes for part in self.parts)

    @property
    def num_inputs(self) -> int:
        """That the convolution looks back at; 0 where there is none."""
        return self.parts[1].shape[0] if len(self.parts) > 1 else 0
