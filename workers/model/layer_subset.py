"""A runner's model without some of its layers, over the same blocks: what is left out passes its input on.

A layer keeps its place in the KV blocks whichever others run, so that layers that run find their own keys and values of
all tokens that the whole model has computed.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model.contract import Batch, Chunk, Row, Sampled
from workers.model.fused_layers import Layers
from workers.model.runner import TorchRunner


class LayerSubset:
    """Not thread-safe: of the runner's thread, between its steps.

    Raises: ConfigError: the model does not keep its layers in one list.
    """

    def __init__(self, runner: TorchRunner) -> None:
        self.runner = runner
        self._base: nn.Module = runner.model.base_model
        layers = getattr(self._base, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ConfigError(
                f"speculation.method: 'self' does not go with {type(runner.model).__name__}, whose layers are not in "
                "one list; set auto or ngram"
            )
        self.layers = layers  # all of them, in order
        self._lists: dict[frozenset[int], nn.ModuleList] = {frozenset(): layers}

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def run(self, batch: Batch, skipped: Collection[int]) -> list[list[Sampled]]:
        """As the runner's, of the layers that are not skipped; KV of the others stays as it is."""
        with self._without(skipped):
            return self.runner.run(batch)

    def compute(self, chunks: Sequence[Chunk], rows: Sequence[Row], skipped: Collection[int]) -> Tensor | None:
        with self._without(skipped):
            return self.runner.compute(chunks, rows)

    @contextmanager
    def _without(self, skipped: Collection[int]) -> Iterator[None]:
        graphs = self.runner.graphs
        self._base.layers = self._list(frozenset(skipped))
        self.runner.graphs = None if skipped else graphs  # they are of the whole model
        try:
            yield
        finally:
            self._base.layers = self.layers
            self.runner.graphs = graphs

    def _list(self, skipped: frozenset[int]) -> nn.ModuleList:
        made = self._lists.get(skipped)
        if made is None:
            made = Layers(layer for index, layer in enumerate(self.layers) if index not in skipped)
            self._lists[skipped] = made
        return made
