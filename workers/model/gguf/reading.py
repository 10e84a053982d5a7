"""GGUF files as transformers reads them, faster: the library reads a file's header again for each thing it asks."""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

from baton.errors import ConfigError
from workers.model.gguf.folder import LINK, GGUFSource


class _Reader(gguf.GGUFReader):
    """Over a plain array: a slice of numpy's memory map costs 10 us, and a vocabulary's names are 300,000 slices."""

    @property
    def data(self) -> Any:
        return self._plain

    @data.setter
    def data(self, mapped: Any) -> None:
        self._plain = np.asarray(mapped)


@contextmanager
def read_once() -> Iterator[None]:
    """transformers parses a file's header up to five times, and asks for the table of names once per submodule."""
    library: Any = gguf
    reader, name_map = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = functools.cache(_Reader), functools.cache(name_map)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = reader, name_map


def open_checked(link: Path, file: Path) -> Any:
    """The library's reader of a whole file whose tensors can all be dequantized.

    Args:
        link: Where transformers will open it.
        file: Where the user has it.
    Raises:
        ConfigError: Cut short, no GGUF file, one part of several, or a quantization that is not known.
    """
    try:
        reader = gguf.GGUFReader(str(link))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        if "GGMLQuantizationType" in str(error):
            number = "".join(filter(str.isdigit, str(error).replace("uint32", "")))
            raise ConfigError(
                f"model: {file} has tensors of the quantization number {number}, which the package gguf "
                "does not know; give a file in another quantization, or install a newer gguf"
            ) from error
        raise ConfigError(f"model: {file} is cut short or no GGUF file; fetch it again") from error
    parts = field(reader, "split.count") or 1
    if parts > 1:
        raise ConfigError(
            f"model: {file} is one of {parts} parts; join them with llama.cpp's `llama-gguf-split --merge`, and give "
            "the file that it makes"
        )
    _check_quantizations(file, reader)
    return reader


def field(reader: Any, name: str) -> Any:
    """A value of the file's header; None where it has none of that name."""
    found = reader.get_field(name)
    return None if found is None else found.contents()


def _check_quantizations(file: Path, reader: Any) -> None:
    first = {tensor.tensor_type: tensor for tensor in reversed(reader.tensors)}
    for kind, tensor in first.items():
        try:
            gguf.dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], kind)
        except NotImplementedError as error:
            raise ConfigError(
                f"model: {file} has tensors in {kind.name}, a quantization that cannot be dequantized here; "
                "give a file in another one, such as Q4_K_M, Q8_0 or BF16"
            ) from error


def source_of(file: Path, reader: Any) -> GGUFSource:
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return GGUFSource(
        path=str(file),
        family=str(field(reader, "general.architecture")),
        quantizations=tuple(name for name, _ in kinds.most_common()),
        num_parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
    )


def load_gguf(folder: Path, config: Any, dtype: torch.dtype, attention: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model with all weights dequantized, and transformers' report of what was missing. Call it in `read_once`.

    Raises:
        ConfigError: transformers cannot read the file's family.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    auto_model: Any = AutoModelForCausalLM
    try:
        model, report = auto_model.from_pretrained(
            folder,
            gguf_file=LINK,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except (NotImplementedError, ValueError, LookupError, RuntimeError) as error:
        raise ConfigError(
            f"model: {(folder / LINK).resolve()} cannot be read by transformers ({_first_line(error)}); "
            "give a folder with safetensors"
        ) from error
    return model, report


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
