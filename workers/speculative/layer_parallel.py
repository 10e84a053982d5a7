"""The runner of one rank of a layer-parallel draft worker (EasySpec): several layers attend at once.

Chunks of kind DRAFT are computed so, if a step has no others; all else in exact order: prompts, and the tokens of a
round that were accepted, which are read again so that their keys and values are exact (bonus calibration).
Each rank keeps the attention weights and the KV of its own layers alone.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model.contract import Chunk, ChunkKind, Row
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import packed
from workers.model.fused_layers import Layers
from workers.model.loader import LoadedModel, load_model
from workers.model.runner import TorchRunner
from workers.model.tensor_parallel.ranks import Ranks
from workers.spec import GangSpec, Role, WorkerSpec
from workers.speculative.fused_halves import FusedHalves, fused_halves
from workers.speculative.layer_agreement import agreement, most_that_agree, sample_tokens
from workers.speculative.layer_division import SETTING, ByLayers, layers_of
from workers.speculative.layer_gang import GangLayer, LayerGang
from workers.speculative.layer_halves import PlainHalves
from workers.speculative.layer_plan import LayerPlan

logger = logging.getLogger(__name__)
LEADER = 0


def check_gang(gang: GangSpec, role: Role) -> None:
    """Raises: ConfigError: such a gang does not divide layers."""
    if gang.layer_parallel == 1:
        return
    if role is not Role.DRAFT:
        raise ConfigError(
            f"{SETTING}: {gang.layer_parallel} is for draft workers; a {role} worker's answers must be exact; set "
            f"{SETTING}: 1, or tensor_parallel"
        )
    for name in ("tensor_parallel", "sequence_parallel"):
        if getattr(gang, name) > 1:
            raise ConfigError(
                f"{SETTING}: {gang.layer_parallel} beside {name}: {getattr(gang, name)} is not supported; set {name}: 1"
            )


class Held(NamedTuple):
    """By one rank."""

    layers: Sequence[int]  # whose attention weights and KV
    weights_nbytes: int
    kv_nbytes: int


class LayerParallelRunner(TorchRunner):
    """As its base; `spec.gang.layer_group` layers attend at once, or as many as `warm_up` finds agree well enough.

    Args:
        ranks: None: all layers are here, and groups are computed one layer after the other: to try what they cost in
            acceptance.
    """

    def __init__(self, spec: WorkerSpec, *, native: bool = True, ranks: Ranks | None = None) -> None:
        gang = self._gang = spec.gang
        self._folder = Path(spec.model)
        loaded = load_model(spec, ranks, ByLayers(ranks, gang.layer_group))
        weights_nbytes = sum(weight.nbytes for weight in loaded.model.parameters())
        size = ranks.size if ranks is not None else 1
        group_size = gang.layer_group or gang.layer_parallel
        plan = LayerPlan(num_layers=len(loaded.shapes), num_ranks=size, group_size=group_size)
        self._layers = arrange(loaded, plan, ranks, native=native)
        super().__init__(spec, native=native, ranks=ranks, loaded=loaded)
        self.graphs = None  # one is of one way to compute a step; here are two
        self.held = Held(loaded.layers, weights_nbytes, sum(layer.nbytes for layer in self.store.layers))
        logger.info("a rank's part of the draft model rank=%d held=%s", gang.rank, self.held)

    @property
    def plan(self) -> LayerPlan:
        return self._layers.plan

    def warm_up(self) -> None:
        super().warm_up()
        if self._gang.layer_group == 0:
            self._choose()

    def agreements(self, sizes: Sequence[int]) -> dict[int, float]:
        """By how many layers attend at once: how often the draft says what it says exactly, on sample text.

        Empty where the model's folder has no tokenizer. Every rank calls it at once; the leader has the answer. Uses
        blocks, which are free by contract, from the first on; the groups are the last of `sizes` afterwards.
        """
        size = self.store.block_size
        tokens = sample_tokens(self._folder, min(self.max_model_len, self.num_blocks * size))
        blocks = range(-(-len(tokens) // size))
        found = {}
        for number in sizes if tokens else ():
            self._regroup(number)
            found[number] = agreement(self.compute, tokens, blocks)
        for layer in self.store.layers:
            layer[:, list(blocks)] = 0
        return found

    def _choose(self) -> None:
        sizes = range(1, self._gang.layer_parallel + 1)
        found = self.agreements(sizes)
        chosen = torch.tensor([float(most_that_agree(found)) if found else sizes[-1]])
        if self._ranks is not None:
            chosen = self._ranks.all_gather(chosen)[LEADER]
        self._regroup(int(chosen))
        if self._gang.rank == LEADER:
            shown = {number: round(share, 3) for number, share in found.items()} or "not measured, without a tokenizer"
            logger.info("layers that attend at once group_size=%d agreement=%s", self.plan.group_size, shown)

    def _regroup(self, group_size: int) -> None:
        self._layers.regroup(replace(self.plan, group_size=group_size))

    def _logits(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None
    ) -> Tensor | None:
        self._layers.begin(is_fuzzy=all(chunk.kind is ChunkKind.DRAFT for chunk in chunks))
        return super()._logits(chunks, rows, on_layer)


def arrange(loaded: LoadedModel, plan: LayerPlan, ranks: Ranks | None, *, native: bool) -> LayerGang:
    """Puts the gang in place of the model's layers."""
    layers = layers_of(loaded.model)
    plain = [PlainHalves(layer, has_attention=index in loaded.layers) for index, layer in enumerate(layers)]
    halves = _fused(loaded, plain) if native and loaded.device.type == "cpu" else plain
    gang = LayerGang(halves, plan, ranks)
    placed = [
        GangLayer(index, gang, half, layer) for index, (half, layer) in enumerate(zip(halves, layers, strict=True))
    ]
    loaded.model.base_model.layers = Layers(placed)  # type: ignore[union-attr]
    return gang


def _fused(loaded: LoadedModel, plain: Sequence[PlainHalves]) -> Sequence[PlainHalves | FusedHalves]:
    """All of them or none; the weights of what is replaced are let go."""
    if loaded.dtype not in cpu_elementwise.DTYPES or not cpu_elementwise.available():
        return plain
    make_linear = packed.linear_maker(loaded.model)
    if make_linear is None:
        return plain
    fused: list[FusedHalves] = []
    for halves in plain:
        found = fused_halves(halves, loaded.dtype, make_linear)
        if found is None:
            return plain
        fused.append(found)
    return fused
