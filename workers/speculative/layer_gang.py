"""Computes a model's layers on the ranks that share them out: exactly in order, or nearly in groups.

exact   h = h + A_i(h); h = h + MLP_i(h), for each layer i: its rank computes A_i, which all ranks then have
fuzzy   A_i of the group's input h1 for all layers i of a group, by their ranks at the same time; one gathering;
        then in order h = h + A_i; h = h + MLP_i(h). Only what attention reads is stale. (EasySpec, Algorithm 1)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from workers.model.tensor_parallel.ranks import Ranks
from workers.speculative.layer_halves import Arguments, Halves
from workers.speculative.layer_plan import LayerPlan


class LayerGang:
    """
    Args:
        ranks: None: all layers are here.
    Attributes:
        plan: May be replaced between steps; says nothing else of who has which layer.
        is_fuzzy: How the next layers are computed. Set before each step, by every rank alike.
    """

    def __init__(self, halves: Sequence[Halves], plan: LayerPlan, ranks: Ranks | None) -> None:
        self._halves = halves
        self._ranks = ranks
        self._rank = ranks.rank if ranks is not None else 0
        self.is_fuzzy = False
        self.regroup(plan)

    def regroup(self, plan: LayerPlan) -> None:
        self.plan = plan
        self._groups = {layer: group for group in plan.groups() for layer in group}
        self._arguments: list[Arguments] = []

    def begin(self, *, is_fuzzy: bool) -> None:
        """A step."""
        self.is_fuzzy = is_fuzzy
        self._arguments = []

    def call(self, layer: int, x: Tensor, arguments: Arguments) -> Tensor:
        """A group is computed when its last layer is called: by then all that the model gives its layers is known.

        Until then each answers what it got.
        """
        group = self._groups[layer]
        if not self.is_fuzzy or len(group) == 1:
            return self._exact(layer, x, arguments)
        self._arguments.append(arguments)
        if layer != group[-1]:
            return x
        arguments_of = dict(zip(group, self._arguments, strict=True))
        self._arguments = []
        found = self._attend(group, x, arguments_of)
        for member in group:
            x = self._halves[member].rest(x, found[member], arguments_of[member])
        return x

    def _exact(self, layer: int, x: Tensor, arguments: Arguments) -> Tensor:
        halves = self._halves[layer]
        if self._ranks is None:
            return halves.rest(x, halves.attention(x, arguments), arguments)
        is_mine = self.plan.owner(layer) == self._rank
        found = halves.attention(x, arguments).contiguous() if is_mine else x.new_zeros(x.shape)
        self._ranks.all_reduce(found)
        return halves.rest(x, found, arguments)

    def _attend(self, group: Sequence[int], x: Tensor, arguments_of: Mapping[int, Arguments]) -> Mapping[int, Tensor]:
        """What each layer's attention finds in x."""
        if self._ranks is None:
            return {member: self._halves[member].attention(x, arguments_of[member]) for member in group}
        turns: list[list[int]] = [[] for _ in range(self._ranks.size)]
        for member in group:
            turns[self.plan.owner(member)].append(member)
        mine = x.new_zeros((max(map(len, turns)), *x.shape))
        for slot, member in enumerate(turns[self._rank]):
            mine[slot] = self._halves[member].attention(x, arguments_of[member])
        found = self._ranks.all_gather(mine)  # [ranks, most layers of one, 1, T, width]
        return {member: found[rank, slot] for rank, turn in enumerate(turns) for slot, member in enumerate(turn)}


class GangLayer(nn.Module):
    """What the model calls in place of its layer number `index`."""

    def __init__(self, index: int, gang: LayerGang, halves: nn.Module, layer: Any) -> None:
        super().__init__()
        self.index = index
        self.gang = gang
        self.halves = halves  # here so that they are part of the model
        if hasattr(layer, "attention_type"):  # some models choose the layer's mask by it
            self.attention_type = layer.attention_type

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        return self.gang.call(self.index, hidden_states, arguments)
