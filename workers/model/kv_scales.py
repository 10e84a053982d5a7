"""The factors that a checkpoint has for keys and values in FP8, and which type blocks have.

Names are those of compressed-tensors (`layers.0.self_attn.k_scale`), ModelOpt (`layers.0.self_attn.k_proj.k_scale`) and
older ones with one factor for both (`layers.0.self_attn.kv_scale`). One number is for all heads of a layer, as many as
there are KV heads are for one each. Layers without any are kept as they are: their factor is 1.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model import fp8
from workers.model.fp8 import KVScales
from workers.model.kv_store import LayerShape, Shape
from workers.model.places import Place
from workers.spec import KV_DTYPES, WorkerSpec

# Not those of layers that a model has for drafts, or of other towers: their names begin otherwise.
_NAME = re.compile(r"(?:(?:model|language_model)\.)*layers\.(\d+)\.(?:\w+\.)*(k|v|kv)_scale")
_ROWS = {"k": (0,), "v": (1,), "kv": (0, 1)}
LEAST, MOST = 1e-30, 1e30  # of a factor: beyond, its reciprocal is no number to multiply by
INSTEAD = "set kv.dtype: auto, or give a checkpoint with right ones"


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFormat:
    """How a worker keeps keys and values.

    Attributes:
        dtype: Of what is kept.
        scales: Of the heads that this process holds, by layer; empty but in FP8.
        names: Of layers whose elements are not told by `dtype` alone, by layer: what a layout says of them.
    """

    dtype: torch.dtype
    scales: Mapping[int, KVScales] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)


def kv_dtype(spec: WorkerSpec, dtype: torch.dtype) -> torch.dtype:
    """`dtype`: the model's. Raises: ConfigError: `kv.dtype` is unknown."""
    if spec.kv.dtype not in KV_DTYPES:
        raise ConfigError(f"kv.dtype: {spec.kv.dtype!r} is unknown; set one of {', '.join(KV_DTYPES)}")
    return fp8.DTYPE if spec.kv.dtype == "fp8" else dtype


def kv_format(
    spec: WorkerSpec, shapes: Sequence[Shape], place: Place, dtype: torch.dtype, device: torch.device
) -> KVFormat:
    """
    Args:
        shapes: Of the whole model's layers.
        place: Which of their heads this process holds.
        dtype: The model's.
    Raises:
        ConfigError: `kv.dtype` is unknown, or what the checkpoint has for FP8 cannot be used.
    """
    kept = kv_dtype(spec, dtype)
    if kept != fp8.DTYPE:
        return KVFormat(dtype=kept)
    heads = {layer: shape.num_kv_heads for layer, shape in enumerate(shapes) if isinstance(shape, LayerShape)}
    folder = Path(spec.model)
    whole = read_factors(folder, heads) if spec.load_format != "dummy" else {}
    whole = {layer: whole.get(layer, torch.ones(2, count)) for layer, count in heads.items()}
    held = {layer: factors[:, place.heads(heads[layer])] for layer, factors in whole.items()}
    return KVFormat(
        dtype=kept,
        scales={layer: KVScales.of(factors.contiguous().to(device)) for layer, factors in held.items()},
        names={layer: _name(factors) for layer, factors in whole.items()},
    )


def read_factors(folder: Path, heads: Mapping[int, int]) -> dict[int, Tensor]:
    """[2, num_kv_heads] float32 of each layer for which the folder's safetensors have factors: keys', then values'.

    Args:
        heads: How many KV heads each layer has that attends.
    Raises:
        ConfigError: They are for another format than FP8, for other layers or heads, or no numbers to multiply by.
    """
    from safetensors import safe_open

    found: dict[int, dict[int, tuple[str, Tensor]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                match = _NAME.fullmatch(name)
                if match is None:
                    continue
                layer, rows = int(match[1]), _ROWS[match[2]]
                factors = _checked(name, file.get_tensor(name), heads.get(layer))
                found.setdefault(layer, {}).update(dict.fromkeys(rows, (name, factors)))
    if found:
        _check_format(folder)
    for both in found.values():
        if len(both) == 1:
            ((name, _),) = both.values()
            raise ConfigError(f"kv.dtype: fp8: {folder} has {name}, and none for the layer's other half; {INSTEAD}")
    return {layer: torch.stack([both[0][1], both[1][1]]) for layer, both in found.items()}


def _checked(name: str, factors: Tensor, num_heads: int | None) -> Tensor:
    if num_heads is None:
        raise ConfigError(f"kv.dtype: fp8: the checkpoint has {name}, of a layer that attends to nothing; {INSTEAD}")
    flat = factors.float().reshape(-1)
    if len(flat) not in (1, num_heads):
        raise ConfigError(
            f"kv.dtype: fp8: {name} has {len(flat)} factors for {num_heads} KV heads; one, or one for each, can be "
            f"used; {INSTEAD}"
        )
    bad = flat[~((flat >= LEAST) & (flat <= MOST))]
    if len(bad):
        raise ConfigError(f"kv.dtype: fp8: {name} is {float(bad[0])}, which keys cannot be divided by; {INSTEAD}")
    return flat.expand(num_heads)


def _check_format(folder: Path) -> None:
    """That what the checkpoint says of its factors is FP8."""
    told = _json(folder / "config.json").get("quantization_config") or {}
    scheme = told.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        bits, kind, is_even = scheme.get("num_bits", 8), scheme.get("type", "float"), scheme.get("symmetric", True)
        if (bits, kind) != (8, "float") or not is_even:
            shown = f"{bits}-bit {kind}{'' if is_even else ', not symmetric'}"
            raise ConfigError(
                f"kv.dtype: fp8: {folder}/config.json says that its factors are for keys and values in {shown} "
                "(kv_cache_scheme); set kv.dtype: auto, or give a checkpoint with FP8 ones"
            )
    algorithm = (_json(folder / "hf_quant_config.json").get("quantization") or {}).get("kv_cache_quant_algo")
    if algorithm is not None and algorithm != "FP8":
        raise ConfigError(
            f"kv.dtype: fp8: {folder}/hf_quant_config.json says that its factors are for keys and values in "
            f"{algorithm} (kv_cache_quant_algo); set kv.dtype: auto, or give a checkpoint with FP8 ones"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON ({error}); fetch the model again") from error
    return found if isinstance(found, dict) else {}


def _name(factors: Tensor) -> str:
    """Of a layer's: equal where bytes mean the same."""
    dtype = str(fp8.DTYPE).removeprefix("torch.")
    if bool((factors == 1).all()):
        return f"{dtype}/scales=1"
    return f"{dtype}/scales={hashlib.sha256(factors.contiguous().numpy().tobytes()).hexdigest()[:12]}"
