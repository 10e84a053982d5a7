"""Which layers attend at once in fuzzy drafting, and which rank has each layer's attention. Pure.

The first and the last layer are alone; those between are in consecutive groups, of which the last may be short
(EasySpec, NeurIPS 2025). Who has a layer does not depend on the size of the groups, so that it can be chosen when all
is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NUM_ALONE = 2  # the first and the last layer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """
    Attributes:
        group_size: Layers that attend at once, >= 1; 1: the plain model.
    """

    num_layers: int
    num_ranks: int = 1
    group_size: int = 1

    def groups(self) -> list[range]:
        """All layers, in order."""
        if self.num_layers <= NUM_ALONE:
            return [range(layer, layer + 1) for layer in range(self.num_layers)]
        last = self.num_layers - 1
        middle = [range(start, min(start + self.group_size, last)) for start in range(1, last, self.group_size)]
        return [range(1), *middle, range(last, last + 1)]

    def owner(self, layer: int) -> int:
        """The rank: those of the middle have turns, the first and the last layer lie far apart."""
        if layer == 0:
            return 0
        if layer == self.num_layers - 1:
            return self.num_ranks - 1
        return (layer - 1) % self.num_ranks

    def owned(self, rank: int) -> Sequence[int]:
        return [layer for layer in range(self.num_layers) if self.owner(layer) == rank]
