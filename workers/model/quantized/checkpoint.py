"""Safetensors files as if no weight in them was quantized: parts are dequantized when they are read.

A weight that is quantized is found by the tensors beside it, and has the name that it would have without. Of what is
asked for, what it is made of is read, and little more.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model.quantized import schemes
from workers.model.quantized.formats import AWQ, GPTQ, MXFP4, Packed, Scaled, Scheme
from workers.model.quantized.scaled_weight import ScaledWeight
from workers.model.quantized.schemes import Cut

ZEROS = "weight_zero_point"
# How what belongs to a weight is called beside it; never a model's own.
BESIDE = (
    "weight_scale_inv",
    "weight_scale",
    ZEROS,
    "weight_packed",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "activation_scale",
    "output_scale",
    "k_scale",
    "v_scale",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
)
MAIN = {Packed: "weight_packed", AWQ: "qweight", GPTQ: "qweight"}  # by whose presence a weight is known
SCALES = ("weight_scale_inv", "weight_scale")
ENDS = ("_blocks", "_scales")  # of an MXFP4 weight's name
WHOLE_DTYPES = ("F64", "F32", "F16", "BF16")
PIECE = 1 << 21  # elements that are dequantized at once
Bring = Callable[[Tensor], Tensor]  # from the files' memory to where it is computed


class Checkpoint:
    """Open from `__enter__` to `__exit__`; parts may be read by several threads.

    Args:
        scheme: As config.json says; None: nothing is quantized.
        dtype: Of what is dequantized.
        bring: Moves what was read to the device where it is dequantized.
    """

    def __init__(self, files: Sequence[Path], scheme: Scheme | None, dtype: torch.dtype, bring: Bring) -> None:
        self.dtype = dtype
        self.scheme = scheme
        self._files = files
        self._bring = bring
        self._readers: list[Any] = []
        self._by_key: dict[str, Any] = {}
        self._parts: dict[str, dict[str, str]] = {}  # by a quantized weight's name: what it has beside it -> key

    def __enter__(self) -> Self:
        """Raises: ConfigError: weights are quantized, and config.json does not say how."""
        from safetensors import safe_open

        for path in self._files:
            reader: Any = safe_open(path, framework="pt")
            reader.__enter__()
            self._readers.append(reader)
            self._by_key.update(dict.fromkeys(reader.keys(), reader))
        if self.scheme is None:
            self._check_plain()
        else:
            self._parts = dict(self._quantized())
        return self

    def __exit__(self, *error: Any) -> None:
        for reader in self._readers:
            reader.__exit__(*error)

    def keys(self) -> list[str]:
        """Names as they would be without quantization, of what may be a model's."""
        plain = [key for key in self._by_key if not self._is_beside(key)]
        return [*plain, *(name for name in self._parts if name not in self._by_key)]

    def slice(self, key: str) -> Any:
        """As safetensors' slices: has `get_shape()`, and is indexed with slices."""
        parts = self._parts.get(key)
        if parts is None:
            return self._plain(key)
        if isinstance(self.scheme, MXFP4):
            return _Stacked(self, parts)
        return _Dequantized(self, key, parts)

    def tensor(self, key: str, index: Any = ...) -> Tensor:
        """As the file has it, where it is computed."""
        return self._bring(self._by_key[key].get_slice(key)[index])

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._by_key[key].get_slice(key).get_shape())

    def stored_dtype(self, key: str) -> str:
        """Of a quantized weight that is elements times scales, as safetensors names it; of any other empty."""
        is_scaled = isinstance(self.scheme, Scaled) and ZEROS not in self._parts.get(key, {ZEROS: ""})
        return str(self._by_key[key].get_slice(key).get_dtype()) if is_scaled else ""

    @property
    def num_quantized(self) -> int:
        return len(self._parts)

    def _plain(self, key: str) -> Any:
        found = self._by_key[key].get_slice(key)
        dtype = str(found.get_dtype())
        if (dtype.startswith("F") and dtype not in WHOLE_DTYPES) or dtype in ("I8", "U8"):
            raise ConfigError(
                f"model: the weight {key} is stored as {dtype}, without scales that are known beside it "
                f"({', '.join(f'{key}_scale' + end for end in ('_inv', ''))}); give another checkpoint"
            )
        return found

    def _is_beside(self, key: str) -> bool:
        return key.rpartition(".")[2] in BESIDE or (isinstance(self.scheme, MXFP4) and key.endswith(ENDS))

    def _check_plain(self) -> None:
        for key in self._by_key:
            if key.rpartition(".")[2] in ("qweight", "weight_packed", *SCALES):
                raise ConfigError(
                    f"model: {self._files[0].parent} has quantized weights ({key}), but its config.json has no "
                    "quantization_config that says how; fetch the folder again, or give another checkpoint"
                )

    def _quantized(self) -> Iterator[tuple[str, dict[str, str]]]:
        if isinstance(self.scheme, MXFP4):
            for key in self._by_key:
                if key.endswith(ENDS[0]) and (name := key.removesuffix(ENDS[0])) + ENDS[1] in self._by_key:
                    yield name, {end: name + end for end in ENDS}
            return
        of_module: dict[str, dict[str, str]] = {}
        for key in self._by_key:
            module, _, last = key.rpartition(".")
            if last == "weight" or last in BESIDE:
                of_module.setdefault(module, {})[last] = key
        for module, parts in of_module.items():
            is_quantized = (
                "weight" in parts and any(name in parts for name in SCALES)
                if isinstance(self.scheme, Scaled)
                else MAIN[type(self.scheme)] in parts
            )
            if is_quantized:
                yield f"{module}.weight", parts


class _Dequantized:
    """One weight of [outputs, inputs]."""

    def __init__(self, checkpoint: Checkpoint, key: str, parts: dict[str, str]) -> None:
        self._checkpoint = checkpoint
        self._key = key
        self._parts = parts
        self._shape = self._found_shape()

    def get_shape(self) -> list[int]:
        return list(self._shape)

    def __getitem__(self, index: Any) -> Tensor:
        """In the checkpoint's dtype; made a few rows at a time, which float32 takes more memory for."""
        cut = self._cut(index)
        try:
            part_of = self._reading(cut)
            num_rows = max(1, PIECE // (cut.column_end - cut.column or 1))
            pieces = [
                part_of(cut._replace(row=row, row_end=min(row + num_rows, cut.row_end))).to(self._checkpoint.dtype)
                for row in range(cut.row, cut.row_end, num_rows)
            ]
        except (ValueError, KeyError) as error:
            raise self._wrong(str(error)) from error
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def kept(self, index: Any) -> ScaledWeight | None:
        """The part as it is stored, where scales go along with it; None: they do not."""
        assert isinstance(self._checkpoint.scheme, Scaled), "see `stored_dtype`"
        assert ZEROS not in self._parts, "see `stored_dtype`"
        cut = self._cut(index)
        scales, row_span, column_span = self._scales(cut)
        if cut.column % column_span and column_span < cut.inputs:
            return None
        values = self._checkpoint.tensor(self._key, (cut.rows, cut.columns))
        return ScaledWeight.cut(values, schemes.real(scales), cut, row_span, column_span)

    def _reading(self, cut: Cut) -> Callable[[Cut], Tensor]:
        """Of cuts within `cut`, whose tensors are read once."""
        if isinstance(self._checkpoint.scheme, Scaled):
            return self._reading_scaled(cut)
        parts = {name: self._checkpoint.tensor(key) for name, key in self._parts.items() if name != "weight_shape"}
        for name in ("scales", *SCALES):
            if name in parts:
                schemes.check_finite(parts[name], self._parts[name])
        match self._checkpoint.scheme:
            case Packed(bits=bits, group=group):
                return lambda piece: schemes.packed(parts, piece, bits, group)
            case AWQ(group=group):
                return lambda piece: schemes.awq(parts, piece, group)
            case GPTQ(bits=bits, group=group, zero_offset=offset):
                return lambda piece: schemes.gptq(parts, piece, bits, group, offset)
        raise AssertionError(f"{self._checkpoint.scheme} has no such weights")

    def _reading_scaled(self, cut: Cut) -> Callable[[Cut], Tensor]:
        scales, row_span, column_span = self._scales(cut)
        values = self._checkpoint.tensor(self._key, (cut.rows, cut.columns))
        key = self._parts.get(ZEROS)
        zeros = _flat(self._checkpoint.tensor(key)) if key else None

        def part_of(piece: Cut) -> Tensor:
            rows = values[piece.row - cut.row : piece.row_end - cut.row]
            return schemes.scaled(rows, scales, piece, row_span, column_span, zeros)

        return part_of

    def _scales(self, cut: Cut) -> tuple[Tensor, int, int]:
        """And how many rows and columns share one."""
        assert isinstance(self._checkpoint.scheme, Scaled)
        key = next(self._parts[name] for name in SCALES if name in self._parts)
        scales = _flat(self._checkpoint.tensor(key))
        block = self._checkpoint.scheme.block
        rows, columns = block or (1, None)
        try:
            schemes.check_finite(scales, key)
            return (
                scales,
                schemes.span(cut.outputs, scales.shape[0], rows),
                schemes.span(cut.inputs, scales.shape[1], columns),
            )
        except ValueError as error:
            said = f"quantization_config's blocks of {list(block)}" if block else "no blocks in quantization_config"
            of = f"{key} has the shape {list(scales.shape)}, the weight {cut.outputs} x {cut.inputs}, with {said}"
            raise self._wrong(f"{error}: {of}") from error

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"model: the weight {self._key} {what}; fetch the folder again, or mend its config.json")

    def _found_shape(self) -> tuple[int, int]:
        shape = self._checkpoint.shape(self._parts[MAIN.get(type(self._checkpoint.scheme), "weight")])
        if len(shape) != 2:
            raise ConfigError(f"model: the weight {self._key} has the shape {list(shape)}; quantized ones have two")
        match self._checkpoint.scheme:
            case Packed():
                outputs, inputs = (int(n) for n in self._checkpoint.tensor(self._parts["weight_shape"]))
                return outputs, inputs
            case AWQ():
                return shape[1] * 8, shape[0]
            case GPTQ(bits=bits):
                return shape[1], shape[0] * 32 // bits
        return shape[0], shape[1]

    def _cut(self, index: Any) -> Cut:
        given = index if isinstance(index, tuple) else () if index is ... else (index,)
        bounds = [one.indices(size)[:2] for one, size in zip(given, self._shape, strict=False)]
        bounds += [(0, size) for size in self._shape[len(bounds) :]]
        return Cut(*self._shape, *bounds[0], *bounds[1])


class _Stacked:
    """MXFP4 experts in one: [experts, inputs, outputs]. A part is taken of the whole, which is read each time."""

    def __init__(self, checkpoint: Checkpoint, parts: dict[str, str]) -> None:
        self._checkpoint = checkpoint
        self._blocks, self._scales = (parts[end] for end in ENDS)

    def get_shape(self) -> list[int]:
        experts, outputs, groups, half = self._checkpoint.shape(self._blocks)
        return [experts, groups * half * 2, outputs]

    def __getitem__(self, index: Any) -> Tensor:
        found: Tensor = torch.cat([self._expert(number) for number in range(self.get_shape()[0])])[index]
        return found

    def _expert(self, number: int) -> Tensor:
        parts = (self._checkpoint.tensor(key, slice(number, number + 1)) for key in (self._blocks, self._scales))
        return schemes.mxfp4(*parts).to(self._checkpoint.dtype)


def _flat(scales: Tensor) -> Tensor:
    """[rows, columns], of scales for all, for each row or for blocks."""
    if scales.numel() == 1:
        return scales.reshape(1, 1)
    return scales.reshape(-1, 1) if scales.dim() == 1 else scales
