"""Which layers of a model an adapter may be for."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from workers.model.tensor_parallel.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Linears:
    """The layers of a whole model that may be adapted, as its own code names them.

    Attributes:
        shapes: (outputs, inputs) of each linear layer.
        others: What kind every other module is.
        shards: Which part of each layer's weight this rank holds; none are there: the whole of it.
    """

    shapes: Mapping[str, tuple[int, int]]
    others: Mapping[str, str]
    shards: Mapping[str, Shard]


def linears_of(whole: nn.Module, shards: Mapping[str, Shard]) -> Linears:
    """`whole`: before layers are packed; may be on the device `meta`."""
    shapes: dict[str, tuple[int, int]] = {}
    others: dict[str, str] = {}
    for name, module in whole.named_modules():
        if type(module) is nn.Linear:
            shapes[name] = (module.out_features, module.in_features)
        else:
            others[name] = type(module).__name__
    return Linears(shapes=shapes, others=others, shards=shards)
