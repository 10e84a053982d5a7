"""A whole model out of safetensors: built without weights, which then go from the files straight to their device.

Weights that are quantized are dequantized on the way, or stay as they are stored where the device has kernels for that.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model import start_report
from workers.model.quantized.checkpoint import Checkpoint
from workers.model.quantized.formats import Scheme
from workers.model.quantized.scaled_linear import ScaledLinear
from workers.model.quantized.scaled_weight import ScaledWeight
from workers.model.tensor_parallel.build import stored_names
from workers.model.tensor_parallel.files import WeightFiles
from workers.model.tensor_parallel.shard import Shard
from workers.model.weight_lanes import WeightLanes, in_threads

logger = logging.getLogger(__name__)
Keeps = Callable[[torch.dtype], bool]  # whether weights of a dtype of 8 bits stay as they are stored
KEPT_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}


class NotPlainError(Exception):
    """What the files hold becomes the model's weights in a way that transformers alone knows."""


class Stored(NamedTuple):
    model: nn.Module
    whole: nn.Module  # the same, or on the device `meta` where some layers of `model` are others


def load_stored(
    make: Callable[[], Any],
    files: Sequence[Path],
    scheme: Scheme | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    keeps: Keeps,
    check_memory: Callable[[int], None],
) -> Stored:
    """
    Args:
        make: The model of transformers, its weights not filled.
        check_memory: Told how many bytes the weights will take; raises where that is too much.
    Raises:
        ConfigError: Weights are missing or of another shape, or what `check_memory` raises.
        NotPlainError: Nothing was read.
    """
    from transformers.initialization import no_init_weights

    with no_init_weights(), _parameters_on_meta(), torch.device(device):
        model = make()
    model.tie_weights()
    lanes = WeightLanes(device)
    with Checkpoint(files, scheme, dtype, lanes.bring) as checkpoint:
        weights = _files_of(model, checkpoint, files[0].parent)
        kept = {name for name in _linear_weights(model) if _keeps_one(weights.stored_dtype(name), keeps)}
        sizes = {name: _nbytes(weight, is_kept=name in kept) for name, weight in model.named_parameters()}
        check_memory(sum(sizes.values()))
        if checkpoint.num_quantized:
            _tell(checkpoint.num_quantized, len(kept), sum(sizes.values()))
        whole = _whole(make) if kept else model
        try:
            _Filling(model, weights, lanes, sizes, kept).fill(dtype, device)
        except ValueError as error:
            raise ConfigError(f"model: {files[0].parent}: {error}; fetch the folder again") from error
    return Stored(model, whole)


def _keeps_one(stored: str, keeps: Keeps) -> bool:
    """`stored`: a quantized weight's dtype as safetensors names it; empty: it is no such weight."""
    return stored in KEPT_DTYPES and keeps(KEPT_DTYPES[stored])


def _whole(make: Callable[[], Any]) -> nn.Module:
    with torch.device("meta"):
        whole: nn.Module = make()
    return whole


def _files_of(model: Any, checkpoint: Checkpoint, folder: Path) -> WeightFiles:
    try:
        weights = WeightFiles(checkpoint, model)
    except ConfigError as error:
        if checkpoint.scheme is None:
            raise NotPlainError from error
        raise ConfigError(
            f"model: quantized weights of {type(model).__name__} are not served, since files name them in a way of "
            "their own; give a checkpoint in bfloat16"
        ) from error
    names = stored_names(model)
    missing = [name for name in names if name not in weights]
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(names)
    if checkpoint.scheme is None and (missing or any(name in weights for name in tied)):
        raise NotPlainError
    if missing:
        raise ConfigError(
            f"model: {folder} lacks {len(missing)} weights of {type(model).__name__}, the first is "
            f"{sorted(missing)[0]}; fetch the folder again"
        )
    return weights


class _Filling:
    """Puts weights into a model without any; those that stay as they are stored come with layers of their own.

    Args:
        sizes: Bytes of each weight, by name.
        kept: Names of those that are to stay so.
    """

    def __init__(
        self, model: nn.Module, weights: WeightFiles, lanes: WeightLanes, sizes: Mapping[str, int], kept: set[str]
    ) -> None:
        self._model = model
        self._weights = weights
        self._lanes = lanes
        self._sizes = sizes
        self._kept = kept
        self._report = start_report.current()
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for key, weight in module._parameters.items():
                if weight is not None:
                    self._owners.setdefault(id(weight), []).append((module, key))
        self._scaled: dict[str, ScaledWeight] = {}

    def fill(self, dtype: torch.dtype, device: torch.device) -> None:
        self._report.begin(sum(self._sizes.values()))
        parameters = dict(self._model.named_parameters())
        in_threads(self._filling(name, weight, device) for name, weight in parameters.items())
        for name, buffer in self._model.named_buffers():
            if name in self._weights:
                self._lanes.put(buffer, self._read(name, _all_of(buffer)))
        for name, weight in self._scaled.items():
            linear = name.removesuffix(".weight")
            owner, _, child = linear.rpartition(".")
            bias: Tensor | None = self._model.get_submodule(linear)._parameters["bias"]
            setattr(self._model.get_submodule(owner), child, ScaledLinear(weight, bias, dtype).train(False))

    def _filling(self, name: str, weight: nn.Parameter, device: torch.device) -> Callable[[], None]:
        """What one thread is to do. Its place is made here, by one thread for all: each has memory of its own to give
        back, and does not."""
        if name in self._kept:
            return partial(self._keep, name, weight)
        target = torch.empty(weight.shape, dtype=self._dtype_of(name, weight), device=device)
        return partial(self._fill_one, name, weight, target)

    def _keep(self, name: str, weight: nn.Parameter) -> None:
        kept = self._weights.kept(name, _all_of(weight))
        assert kept is not None, "all of a weight is in whole blocks"
        self._scaled[name] = kept
        self._report.add(self._sizes[name])

    def _fill_one(self, name: str, weight: nn.Parameter, target: Tensor) -> None:
        filled = nn.Parameter(self._lanes.placed(target, self._read(name, _all_of(weight))), requires_grad=False)
        for module, key in self._owners[id(weight)]:
            module._parameters[key] = filled
        self._report.add(self._sizes[name])

    def _dtype_of(self, name: str, weight: Tensor) -> torch.dtype:
        """float32 where the model says that float16 is too narrow."""
        wide: Any = getattr(self._model, "_keep_in_fp32_modules", None) or ()
        is_wide = weight.dtype == torch.float16 and not set(wide).isdisjoint(name.split("."))
        return torch.float32 if is_wide else weight.dtype

    def _read(self, name: str, shard: Shard) -> Tensor:
        part = self._weights.read(name, shard)
        assert part is not None
        return part


def _linear_weights(model: nn.Module) -> Iterator[str]:
    """Names of the weights of plain linear layers, that no other module shares."""
    shared: dict[int, int] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                shared[id(weight)] = shared.get(id(weight), 0) + 1
    for name, module in model.named_modules():
        if type(module) is nn.Linear and shared[id(module.weight)] == 1:
            yield f"{name}.weight"


def _nbytes(weight: Tensor, *, is_kept: bool) -> int:
    """Without scales, which are below 1 % of what they are for."""
    return weight.numel() * (1 if is_kept else weight.element_size())


def _all_of(weight: Tensor) -> Shard:
    shape = tuple(weight.shape)
    return Shard(shape=shape, runs=((0, shape[0]),) if shape else ())


def _tell(num_quantized: int, num_kept: int, num_bytes: int) -> None:
    logger.info(
        "quantized weights num_weights=%d num_kept_as_stored=%d num_dequantized=%d weights_bytes=%d",
        *(num_quantized, num_kept, num_quantized - num_kept, num_bytes),
    )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """What is built within has its buffers, and no memory for its parameters."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        register(module, name, None if weight is None else nn.Parameter(weight.to("meta"), requires_grad=False))

    nn.Module.register_parameter = on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
