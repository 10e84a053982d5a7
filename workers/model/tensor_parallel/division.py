"""What of a model each rank of a gang holds: every layer's heads divided between them, or in another way."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from workers.model.places import PLAIN, Place
from workers.model.tensor_parallel.ranks import Ranks
from workers.model.tensor_parallel.share import check_degree, local_config


class Division(Protocol):
    name: str  # of the setting, for errors

    def check(self, config: Any) -> None:
        """Raises: ConfigError: a model of this config cannot be divided so."""
        ...

    def local_config(self, config: Any) -> Any:
        """Of what one rank holds. Called after `check`."""
        ...

    def leave_out(self, model: nn.Module) -> None:
        """Takes out of the share, in place, the modules whose weights this rank does not hold."""
        ...

    def layers(self, num_layers: int) -> Sequence[int]:
        """Those whose keys, values and states this rank keeps, in order."""
        ...

    @property
    def place(self) -> Place:
        """Which heads of those layers it keeps."""
        ...


class ByHeads:
    """Tensor parallelism: every rank has some of each layer's heads."""

    name = "tensor_parallel"

    def __init__(self, degree: int, ranks: Ranks | None) -> None:
        self._degree = degree
        self.place = Place(ranks.rank, ranks.size) if ranks is not None else PLAIN

    def check(self, config: Any) -> None:
        check_degree(config, self._degree)

    def local_config(self, config: Any) -> Any:
        return local_config(config, self._degree)

    def leave_out(self, model: nn.Module) -> None:
        """Nothing: each rank has a part of every module."""

    def layers(self, num_layers: int) -> Sequence[int]:
        return range(num_layers)
