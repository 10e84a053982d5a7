"""Reads what a PEFT folder holds, without its weights: which linear layers it adapts, and whether it is whole.

What the base model must have for it is `fitting`'s to say. No torch.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from baton.errors import ConfigError
from workers.adapters.adapter import MAX_RANK
from workers.adapters.peft_config import PeftConfig, parse_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # B A x: A goes down to the rank
MAX_HEADER_BYTES = 100 << 20  # as safetensors has it
HASH_BYTES = 16
READ_BYTES = 1 << 22


class Pair(NamedTuple):
    """Of one linear layer: y += scale B A x."""

    rank: int
    in_features: int
    out_features: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """
    Attributes:
        pairs: By the layer's name in the base model.
        content_hash: Of weights and scales, hexadecimal.
    """

    name: str
    folder: Path
    config: PeftConfig
    pairs: Mapping[str, Pair]
    content_hash: str

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def num_parameters(self) -> int:
        return sum(pair.rank * (pair.in_features + pair.out_features) for pair in self.pairs.values())


def read_adapter(name: str, folder: Path) -> AdapterFile:
    """Raises: ConfigError: there is no such adapter, it is not whole, or it asks for what is not done here."""
    where = f"adapters.{name}: {folder}/{CONFIG}: "
    config = parse_config(_read_config(name, folder), where)
    weights = _find_weights(name, folder)
    shapes = read_shapes(weights, f"adapters.{name}: ")
    pairs = _pairs(name, weights, shapes, config)
    return AdapterFile(name=name, folder=folder, config=config, pairs=pairs, content_hash=_content_hash(weights, pairs))


def read_shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    """Of each tensor of a safetensors file, by its name. Raises: ConfigError: it is none, or cut short."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(file.read(size))
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        end = 8 + size + max((value["data_offsets"][1] for value in tensors.values()), default=0)
        if path.stat().st_size < end:
            raise ValueError(f"it has {path.stat().st_size} bytes of {end}")
        return {key: tuple(value["shape"]) for key, value in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ConfigError(f"{where}{path} is no whole safetensors file ({error}); copy the folder again") from error


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise ConfigError(f"adapters.{name}: {folder} is no folder; give one that PEFT's save_pretrained wrote")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"adapters.{name}: {folder} has no {CONFIG}; give a folder that PEFT's save_pretrained wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"adapters.{name}: {path} cannot be read ({error}); copy the folder again") from error
    if not isinstance(told, dict):
        raise ConfigError(f"adapters.{name}: {path} is no JSON object; copy the folder again")
    return told


def _find_weights(name: str, folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / "adapter_model.bin").is_file():
        raise ConfigError(
            f"adapters.{name}: {folder} has adapter_model.bin alone, a pickle, which may run code when it is read; "
            f"save the adapter again with safe_serialization=True, which writes {WEIGHTS}"
        )
    raise ConfigError(f"adapters.{name}: {folder} has no {WEIGHTS}; copy the folder again")


def _pairs(name: str, weights: Path, shapes: Mapping[str, tuple[int, ...]], config: PeftConfig) -> dict[str, Pair]:
    where = f"adapters.{name}: {weights}: "
    modules = {_module_of(key, where) for key in shapes}
    if not modules:
        raise ConfigError(f"{where}holds no tensors; save the adapter again with PEFT")
    pairs: dict[str, Pair] = {}
    for module in sorted(modules):
        down, up = (_shape(shapes, PREFIX + module + end, where) for end in (DOWN, UP))
        rank = config.rank_of(module)
        if down[0] != rank or up[1] != rank:
            raise ConfigError(
                f"{where}{module} has A of {list(down)} and B of {list(up)}, but the config says rank {rank}; save the "
                "adapter again with PEFT"
            )
        if rank > MAX_RANK:
            raise ConfigError(f"{where}{module} has rank {rank}; {MAX_RANK} is the most, train with a lower r")
        pairs[module] = Pair(rank, down[1], up[0], config.scale_of(module))
    return pairs


def _module_of(key: str, where: str) -> str:
    end = next((end for end in (DOWN, UP) if key.endswith(end)), None)
    if end is not None and key.startswith(PREFIX):
        return key.removeprefix(PREFIX).removesuffix(end)
    if ".lora_embedding_" in key:
        module = key.removeprefix(PREFIX).partition(".lora_embedding_")[0]
        raise ConfigError(f"{where}adapts {module}, an embedding, no linear layer; train without it in target_modules")
    raise ConfigError(
        f"{where}has the tensor {key}, which is no A or B of a linear layer; train with PEFT's plain LoRA"
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, where: str) -> tuple[int, int]:
    shape = shapes.get(key)
    if shape is None:
        raise ConfigError(f"{where}lacks the tensor {key}; copy the folder again")
    if len(shape) != 2:
        raise ConfigError(f"{where}{key} has the shape {list(shape)}, no linear layer's; give an adapter of nn.Linear")
    return (shape[0], shape[1])


def _content_hash(weights: Path, pairs: Mapping[str, Pair]) -> str:
    digest = blake2b(digest_size=HASH_BYTES)
    for module, pair in pairs.items():
        digest.update(f"{module}={pair.scale!r};".encode())
    with weights.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
