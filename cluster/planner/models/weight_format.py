"""What an element of a model's weights takes, by part: quantized checkpoints leave some parts as they were."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from baton.errors import ConfigError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SCALE_BYTES = 4  # float32, of a block of fp8 weights
MXFP4_BYTES = (32 * 4 + 8) / 8 / 32  # 32 elements of 4 bits share a scale of 8
METHODS = ("fp8", "mxfp4")
# Parts that fp8 checkpoints keep in `dtype`: outside the layers, or too small to count. By the end of a module's name.
SPARED = ("lm_head", "embed_tokens", "gate", "router", "norm", "conv1d", "in_proj_ba", "in_proj_a", "in_proj_b", "head")
SPARED_STARTS = ("visual", "model.visual", "mtp", "vision", "lm_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """Bytes per element. `outside`: embeddings, output head, norms outside the layers."""

    dense: float = 2.0  # a layer's products that every token meets, router and norms included
    experts: float = 2.0  # routed ones
    outside: float = 2.0

    @classmethod
    def uniform(cls, element_bytes: float) -> Self:
        return cls(dense=element_bytes, experts=element_bytes, outside=element_bytes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], element_bytes: float) -> Self:
        """
        Args:
            element_bytes: Of what is not quantized.
        Raises:
            ConfigError: A method, a block or a spared part whose bytes are not known.
        """
        quantization = config.get("quantization_config")
        if not isinstance(quantization, Mapping):
            return cls.uniform(element_bytes)
        method = str(quantization.get("quant_method"))
        if method == "mxfp4":  # experts alone
            return cls(dense=element_bytes, experts=MXFP4_BYTES, outside=element_bytes)
        if method != "fp8":
            raise ConfigError(
                f"config.json: quantization_config.quant_method {method!r} is not known to the planner; "
                f"it knows {', '.join(METHODS)}, and configs without quantization"
            )
        _check_spared(quantization.get("modules_to_not_convert") or quantization.get("ignored_layers") or ())
        fp8 = 1.0 + _scale_share(quantization.get("weight_block_size"))
        return cls(dense=fp8, experts=fp8, outside=element_bytes)


def dtype_bytes(dtype: object) -> int:
    """
    Raises:
        ConfigError: The planner does not know it.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise ConfigError(f"dtype {name!r} is not known to the planner; give {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[name]


def _scale_share(block: object) -> float:
    """Bytes of scales per element."""
    if block is None:  # one for a whole matrix or row
        return 0.0
    if not isinstance(block, list | tuple) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise ConfigError(f"config.json: quantization_config.weight_block_size {block!r} must be two whole numbers")
    return SCALE_BYTES / float(block[0] * block[1])


def _check_spared(modules: object) -> None:
    if not isinstance(modules, list | tuple):
        raise ConfigError(f"config.json: quantization_config.modules_to_not_convert {modules!r} must be a list")
    for module in map(str, modules):
        if not (module.endswith(SPARED) or module.startswith(SPARED_STARTS)):
            raise ConfigError(
                f"config.json: quantization_config.modules_to_not_convert has {module!r}, whose share of the "
                f"weights the planner does not know; it knows {', '.join(SPARED)}"
            )
