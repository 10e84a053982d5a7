"""Tiny quantized checkpoints with the tensors and configs that published ones have, and what their weights are worth.

Everything is worked out element by element here, so that nothing of what is tested takes part.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models import tiny


class Made(NamedTuple):
    """Tensors by what they are called beside a module, and the weight [outputs, inputs] in float32 that they mean."""

    tensors: Mapping[str, Tensor]
    means: Tensor


class Form(NamedTuple):
    config: Mapping[str, Any]
    make: Callable[[Tensor], Made]


def checkpoint(family: str, form: Form, folder: Path, **overrides: Any) -> tuple[Path, Path]:
    """A tiny model with its layers' linear weights in that form, and one with what those mean in float32."""
    quantized, plain = folder / "quantized", folder / "plain"
    base = tiny(family, **overrides)
    for target in (quantized, plain):
        shutil.copytree(base, target)
    stored, means = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        if not name.endswith("_proj.weight") or weight.dim() != 2:
            stored[name] = means[name] = weight
            continue
        made = form.make(weight.float())
        means[name] = made.means.contiguous()
        for last, tensor in made.tensors.items():
            stored[f"{name.removesuffix('.weight')}.{last}"] = tensor.contiguous()
    save_file(stored, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(means, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": dict(form.config)}))
    return quantized, plain


def spread(scales: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """One scale for each element."""
    rows, columns = (np.arange(size) // one for size, one in zip(shape, block, strict=True))
    return scales[rows][:, columns]


def fp8(block: tuple[int, int] | None, *, beside: str = "weight_scale_inv", **config: Any) -> Form:
    def make(weight: Tensor) -> Made:
        size = block or tuple(weight.shape)
        grid = [-(-n // one) for n, one in zip(weight.shape, size, strict=True)]
        scales = torch.tensor(
            [
                [
                    float(weight[i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]].abs().max()) / 448
                    for j in range(grid[1])
                ]
                for i in range(grid[0])
            ]
        )
        wide = spread(scales, (weight.shape[0], weight.shape[1]), (size[0], size[1]))
        values = (weight / wide).to(torch.float8_e4m3fn)
        given = scales if block else scales.reshape(())
        return Made({"weight": values, beside: given}, values.float() * wide)

    told = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    return Form(told | config, make)


def compressed(weights: Mapping[str, Any], make: Callable[[Tensor], Made], form: str) -> Form:
    """With the config that compressed-tensors writes."""
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": None, "output_activations": None}
    config = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
    return Form({**config, "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None}, make)


def int8(*, is_symmetric: bool) -> Form:
    def make(weight: Tensor) -> Made:
        low, high = weight.min(1, keepdim=True).values, weight.max(1, keepdim=True).values
        scales = weight.abs().max(1, keepdim=True).values / 127 if is_symmetric else (high - low) / 255
        zeros = torch.zeros_like(scales) if is_symmetric else (-128 - low / scales).round()
        values = (weight / scales + zeros).round().clamp(-128, 127)
        tensors = {"weight": values.to(torch.int8), "weight_scale": scales}
        if not is_symmetric:
            tensors["weight_zero_point"] = zeros.to(torch.int8)
        return Made(tensors, (values - zeros) * scales)

    told = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": is_symmetric}
    return compressed(told, make, "int-quantized")


def fp8_rows() -> Form:
    def make(weight: Tensor) -> Made:
        scales = weight.abs().max(1, keepdim=True).values / 448
        values = (weight / scales).to(torch.float8_e4m3fn)
        return Made({"weight": values, "weight_scale": scales.bfloat16()}, values.float() * scales.bfloat16().float())

    return compressed({"num_bits": 8, "type": "float", "strategy": "channel"}, make, "float-quantized")


class Grouped(NamedTuple):
    values: np.ndarray  # [outputs, inputs] of 0 to 2 ** bits - 1
    zeros: np.ndarray  # [outputs, groups]
    scales: np.ndarray  # float16
    of_input: np.ndarray  # each input's group
    means: Tensor


def grouped(weight: Tensor, bits: int, group: int, *, is_symmetric: bool, is_shuffled: bool = False) -> Grouped:
    outputs, inputs = weight.shape
    of_input = np.arange(inputs) // group
    if is_shuffled:
        of_input = np.random.default_rng(3).permutation(of_input)
    top, w = (1 << bits) - 1, weight.numpy()
    num_groups = int(of_input.max()) + 1
    zeros, scales = np.zeros((outputs, num_groups), np.int64), np.zeros((outputs, num_groups), np.float16)
    for g in range(num_groups):
        part = w[:, of_input == g]
        if is_symmetric:
            scales[:, g] = np.abs(part).max(1) / ((top + 1) // 2 - 0.5)
            zeros[:, g] = (top + 1) // 2
        else:
            scales[:, g] = (part.max(1) - part.min(1)) / top
            zeros[:, g] = np.clip(np.round(-part.min(1) / scales[:, g].astype(np.float32)), 1, top)
    wide, zero = scales.astype(np.float32)[:, of_input], zeros[:, of_input]
    values = np.clip(np.round(w / wide) + zero, 0, top).astype(np.int64)
    return Grouped(values, zeros, scales, of_input, torch.from_numpy((values - zero) * wide).float())


def words(elements: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """int32, of elements packed along the last dimension; `order`: which element lies lowest, next, ..."""
    each = 32 // bits
    out = np.zeros((elements.shape[0], -(-elements.shape[1] // each)), np.uint32)
    for row in range(elements.shape[0]):
        for word in range(out.shape[1]):
            for place in range(each):
                at = word * each + (order[place] if order else place)
                if at < elements.shape[1]:
                    out[row, word] |= np.uint32(int(elements[row, at]) << (bits * place))
    return torch.from_numpy(out.view(np.int32))


def packed(bits: int, group: int, *, is_symmetric: bool, is_shuffled: bool = False) -> Form:
    def make(weight: Tensor) -> Made:
        of = grouped(weight, bits, group, is_symmetric=is_symmetric, is_shuffled=is_shuffled)
        tensors = {
            "weight_packed": words(of.values, bits),
            "weight_scale": torch.from_numpy(of.scales),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not is_symmetric:
            tensors["weight_zero_point"] = words(of.zeros.T, bits).t()
        if is_shuffled:
            tensors["weight_g_idx"] = torch.from_numpy(of.of_input).int()
        return Made(tensors, of.means)

    told = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": is_symmetric}
    return compressed(told, make, "pack-quantized")


def awq(group: int) -> Form:
    def make(weight: Tensor) -> Made:
        of = grouped(weight, 4, group, is_symmetric=False)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        tensors = {
            "qweight": words(of.values.T, 4, order),
            "qzeros": words(of.zeros.T, 4, order),
            "scales": torch.from_numpy(of.scales.T.copy()),
        }
        return Made(tensors, of.means)

    return Form({"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}, make)


def gptq(bits: int, group: int, *, is_shuffled: bool = False, layout: str = "gptq") -> Form:
    def make(weight: Tensor) -> Made:
        of = grouped(weight, bits, group, is_symmetric=False, is_shuffled=is_shuffled)
        tensors = {
            "qweight": words(of.values, bits).t(),
            "qzeros": words(of.zeros.T - (layout == "gptq"), bits),
            "scales": torch.from_numpy(of.scales.T.copy()),
            "g_idx": torch.from_numpy(of.of_input).int(),
        }
        return Made(tensors, of.means)

    told = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": is_shuffled, "sym": False}
    return Form(told | {"checkpoint_format": layout}, make)


def mxfp4_checkpoint(folder: Path) -> tuple[Path, Path]:
    """As `checkpoint`, of a gpt_oss model, whose experts alone are quantized."""
    quantized, plain = folder / "quantized", folder / "plain"
    base = tiny("gpt_oss", intermediate_size=64)
    for target in (quantized, plain):
        shutil.copytree(base, target)
    stored, means = {}, {}
    table = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    rng = np.random.default_rng(5)
    for name, weight in load_file(base / "model.safetensors").items():
        if weight.dim() != 3:
            stored[name] = means[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        nibbles = rng.integers(0, 16, (experts, outputs, inputs), dtype=np.uint8)
        exponents = rng.integers(120, 127, (experts, outputs, inputs // 32), dtype=np.uint8)
        values = np.array([*table, *(-one for one in table)], np.float32)[nibbles]
        wide = values * 2.0 ** (exponents.astype(np.float32) - 127).repeat(32, axis=2)
        means[name] = torch.from_numpy(wide.transpose(0, 2, 1).astype(np.float32)).contiguous()
        pairs = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
        stored[f"{name}_blocks"] = torch.from_numpy(pairs.reshape(experts, outputs, inputs // 32, 16))
        stored[f"{name}_scales"] = torch.from_numpy(exponents)
    save_file(stored, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(means, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    return quantized, plain


FORMS = {
    "fp8, blocks": fp8((32, 32)),
    "fp8, uneven blocks": fp8((40, 24)),
    "fp8, one scale": fp8(None, beside="weight_scale"),
    "compressed-tensors, fp8, a scale for each output": fp8_rows(),
    "compressed-tensors, int8": int8(is_symmetric=True),
    "compressed-tensors, int8 with zero points": int8(is_symmetric=False),
    "compressed-tensors, 4 bits": packed(4, 32, is_symmetric=True),
    "compressed-tensors, 4 bits with zero points": packed(4, 16, is_symmetric=False),
    "compressed-tensors, 4 bits, groups by order": packed(4, 32, is_symmetric=True, is_shuffled=True),
    "compressed-tensors, 8 bits packed": packed(8, 32, is_symmetric=True),
    "awq": awq(32),
    "gptq": gptq(4, 32),
    "gptq, groups by order": gptq(4, 32, is_shuffled=True),
    "gptq, version 2": gptq(4, 16, layout="gptq_v2"),
    "gptq, 8 bits": gptq(8, 32),
    "gptq, 2 bits": gptq(2, 16),
}
