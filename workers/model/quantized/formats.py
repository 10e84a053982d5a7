"""Which quantized checkpoints are served, by the `quantization_config` of config.json alone.

Imports no torch: the control plane asks before anything is fetched or loaded. Which weights of a checkpoint are
quantized, its files say: see `workers.model.quantized.checkpoint`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from baton.errors import ConfigError

SERVED = (
    "fp8 (blocks, rows or whole weights), compressed-tensors (float-quantized, int-quantized, naive-quantized, "
    "pack-quantized of 4 or 8 bits), awq (4 bits, gemm), gptq (2, 4 or 8 bits), mxfp4 (gpt_oss)"
)
CT_SCALED = ("float-quantized", "int-quantized", "naive-quantized")
CT_PACKED = "pack-quantized"
CT_PLAIN = "dense"
NO_FIX = "give a checkpoint in one of these, or in bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """FP8 or int8 elements, times a scale of each block.

    Attributes:
        block: Outputs and inputs that share a scale; None: those of an output, or all.
    """

    block: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """compressed-tensors' elements of `bits`, eight or four in an int32 along the inputs, each plus half their range.

    Attributes:
        group: Inputs of an output that share a scale; None: all.
    """

    bits: int
    group: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AWQ:
    """Elements of 4 bits, eight in an int32 along the outputs, in an order of their own."""

    group: int | None  # as of `Packed`


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQ:
    """Elements of `bits`, several in an int32 along the inputs.

    Attributes:
        group: As of `Packed`.
        zero_offset: What is to be added to zero points as they are stored.
    """

    bits: int
    group: int | None
    zero_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MXFP4:
    """Experts of 4 bits, 32 of which share an exponent."""


Scheme = Scaled | Packed | AWQ | GPTQ | MXFP4


def scheme_of(told: Mapping[str, Any]) -> Scheme | None:
    """
    Args:
        told: What config.json holds.
    Returns:
        None: its weights are not quantized.
    Raises:
        ConfigError: They are in a way that is not served; says which are.
    """
    nested = told.get("text_config")
    config = next(
        (
            one[name]
            for one in (told, nested if isinstance(nested, Mapping) else {})
            for name in ("quantization_config", "compression_config")
            if one.get(name) is not None
        ),
        None,
    )
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise _refused(f" {config!r}", "is no object")
    told_method = config.get("quant_method", "compressed-tensors" if "config_groups" in config else None)
    if told_method is None:
        raise _refused(".quant_method", "is missing")
    method = str(told_method)
    makers: dict[str, Callable[[Mapping[str, Any]], Scheme | None]] = {
        "fp8": _fp8,
        "compressed-tensors": _compressed_tensors,
        "awq": _awq,
        "gptq": _gptq,
        "mxfp4": lambda config: _mxfp4(told),
    }
    if method not in makers:
        raise _refused(f".quant_method {method!r}", "is not served")
    return makers[method](config)


def _fp8(config: Mapping[str, Any]) -> Scaled:
    if str(config.get("fmt") or "e4m3") not in ("e4m3", "e5m2", "float8_e4m3fn"):
        raise _refused(f".fmt {config['fmt']!r}", "is no FP8 that is known")
    return Scaled(block=_block(config.get("weight_block_size"), "weight_block_size"))


def _compressed_tensors(config: Mapping[str, Any]) -> Scaled | Packed | None:
    if config.get("transform_config"):
        raise _refused(".transform_config", "asks for products beside the weights', which are not computed")
    sparsity = config.get("sparsity_config") or {}
    if str(sparsity.get("format") or CT_PLAIN) != CT_PLAIN:
        raise _refused(f".sparsity_config.format {sparsity['format']!r}", "is not served")
    if (status := config.get("quantization_status") or "compressed") != "compressed":
        raise _refused(f".quantization_status {status!r}", "says that its weights are not compressed yet")
    groups = config.get("config_groups")
    named = groups.values() if isinstance(groups, Mapping) else ()
    kinds = [group.get("weights") for group in named if isinstance(group, Mapping)]
    formats = {str(config.get("format") or CT_PLAIN)}
    formats |= {str(group["format"]) for group in named if isinstance(group, Mapping) and group.get("format")}
    if formats != {CT_PLAIN} and not kinds and not config.get("kv_cache_scheme"):
        raise _refused(f".config_groups {groups!r}", f"names no weights of the format {max(formats - {CT_PLAIN})!r}")
    if formats == {CT_PLAIN} or not any(kinds):
        return None
    unknown = sorted(formats - {*CT_SCALED, CT_PACKED, CT_PLAIN})
    if unknown:
        raise _refused(f".format {unknown[0]!r}", "is not served")
    weights = [_weights_of(kind) for kind in kinds if kind]
    if any(one != weights[0] for one in weights) or len(formats - {CT_PLAIN}) > 1:
        raise _refused(".config_groups", "has several groups whose weights are in different forms")
    bits, kind, group, block = weights[0]
    if CT_PACKED not in formats:
        if bits != 8:
            raise _refused(f".config_groups: num_bits {bits!r}", f"is not served in the format {min(formats)!r}")
        return Scaled(block=(1, group) if group is not None else block)
    if kind != "int" or bits not in (4, 8):
        raise _refused(f".config_groups: {kind} of {bits!r} bits", f"is not served in the format {CT_PACKED!r}")
    return Packed(bits=bits, group=group)


def _weights_of(kind: Mapping[str, Any]) -> tuple[Any, str, int | None, tuple[int, int] | None]:
    """Bits, int or float, group and block."""
    block = _block(kind.get("block_structure"), "block_structure")
    return kind.get("num_bits", 8), str(kind.get("type", "int")), _group(kind), block


def _awq(config: Mapping[str, Any]) -> AWQ:
    if config.get("bits", config.get("w_bit", 4)) != 4:
        raise _refused(f".bits {config.get('bits', config.get('w_bit'))!r}", "is not served for awq")
    version = str(config.get("version") or config.get("format") or "gemm").lower()
    if version != "gemm":
        raise _refused(f".version {version!r}", "of awq lays weights out in another order")
    return AWQ(group=_group(config, "q_group_size"))


def _gptq(config: Mapping[str, Any]) -> GPTQ:
    bits = config.get("bits")
    if bits not in (2, 4, 8):
        raise _refused(f".bits {bits!r}", "is not served for gptq")
    if config.get("dynamic"):
        raise _refused(".dynamic", "gives modules forms of their own, which are not served")
    layout = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    if layout not in ("gptq", "gptq_v2"):
        raise _refused(f".checkpoint_format {layout!r}", "of gptq lays weights out in another order")
    return GPTQ(bits=bits, group=_group(config), zero_offset=1 if layout == "gptq" else 0)


def _mxfp4(told: Mapping[str, Any]) -> MXFP4:
    if told.get("model_type") != "gpt_oss":
        raise _refused(".quant_method 'mxfp4'", f"of {told.get('model_type')!r} is not served")
    return MXFP4()


def _group(config: Mapping[str, Any], other: str = "") -> int | None:
    size = config.get("group_size", config.get(other))
    if size is None or size == -1:
        return None
    if type(size) is not int or size <= 0:
        raise _refused(f".group_size {size!r}", "must be a whole number above 0, or -1")
    return size


def _block(block: object, name: str) -> tuple[int, int] | None:
    if block is None:
        return None
    if not isinstance(block, list | tuple) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise _refused(f".{name} {block!r}", "must be two whole numbers above 0")
    return block[0], block[1]


def _refused(what: str, why: str) -> ConfigError:
    return ConfigError(f"model: config.json: quantization_config{what} {why}; served are {SERVED}: {NO_FIX}")
