"""Which modules of transformers' models are layers of linear attention that Baton knows, and what runs them."""

from collections.abc import Iterator, Mapping

from torch import nn

from workers.model.hybrid.gated_delta import KimiDelta, Qwen3NextDelta, Qwen35Delta
from workers.model.hybrid.lightning import MiniMaxLightning
from workers.model.hybrid.mamba2 import Mamba2
from workers.model.hybrid.mixer import Mixer
from workers.model.state_shape import StateShape

MIXERS: Mapping[str, type[Mixer]] = {  # by the name of the module's class
    "MiniMaxLightningAttention": MiniMaxLightning,
    "Qwen3NextGatedDeltaNet": Qwen3NextDelta,
    "Qwen3_5GatedDeltaNet": Qwen35Delta,
    "Qwen3_5MoeGatedDeltaNet": Qwen35Delta,
    "KimiLinearDeltaAttention": KimiDelta,
    "BambaMixer": Mamba2,
    "GraniteMoeHybridMambaLayer": Mamba2,
}


def take_over(model: nn.Module) -> dict[int, StateShape]:
    """Puts a mixer in place of the `forward` of each layer of linear attention; their states by layer."""
    mixers = list(_mixers(model))
    for mixer in mixers:
        mixer.module.__dict__["forward"] = mixer
    return {mixer.layer: mixer.shape for mixer in mixers}


def state_shapes(model: nn.Module) -> dict[int, StateShape]:
    """The same states, of a model that is left as it is; it may be on the device `meta`."""
    return {mixer.layer: mixer.shape for mixer in _mixers(model)}


def _mixers(model: nn.Module) -> Iterator[Mixer]:
    for module in model.modules():
        make = MIXERS.get(type(module).__name__)
        if make is not None:
            yield make(module)
