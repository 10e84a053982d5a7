"""A model folder for a GGUF file: config, tokenizer and chat template as everybody reads them, beside a link to it.

`workers.model.gguf.convert` makes it in a process of its own, once for each version of a file: the control plane, which
needs these files too, imports no torch. Weights stay in the GGUF file, and workers dequantize them when they load.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from baton.errors import ConfigError
from workers.model.cache_folder import made_cache_folder

KIND = "gguf"
SUFFIX = ".gguf"
LINK = "model.gguf"
NOTE = "gguf.json"
FORMAT = "1"  # of the folder; another number makes all of them anew
CONVERT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFSource:
    """What a folder of this module says of its file."""

    path: str
    family: str  # as the file names it: llama, qwen2, ...
    quantizations: tuple[str, ...]  # of its tensors, the most frequent first
    num_parameters: int


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` means: itself, or the one of a folder without safetensors.

    Raises:
        ConfigError: A folder with several.
    """
    if path.suffix.lower() == SUFFIX and path.is_file():
        return path.resolve()
    if not path.is_dir() or (path / NOTE).is_file() or any(path.glob("*.safetensors")):
        return None
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise ConfigError(f"model: {path} has {len(files)} GGUF files; give one of them, such as {files[0]}")
    return files[0].resolve() if files else None


def gguf_folder(file: Path) -> Path:
    """The folder for this file, made at the first call for it: some seconds.

    Raises:
        ConfigError: No GGUF file, or a family, quantization or tokenizer that cannot be read.
    """
    cache = made_cache_folder(KIND)
    target = cache / f"{file.stem[:60]}-{_identity(file)}"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as scratch:
        made = Path(scratch) / "model"
        with Converter(made) as converter:
            converter.convert(file)
        try:
            os.rename(made, target)
        except OSError:
            if not target.is_dir():  # else another process made the same one meanwhile
                raise
    return target


def gguf_source(folder: Path) -> GGUFSource | None:
    """None: not a folder of this module."""
    note = folder / NOTE
    if not note.is_file():
        return None
    found = json.loads(note.read_text(encoding="utf-8"))
    return GGUFSource(**found | {"quantizations": tuple(found["quantizations"])})


def write_source(folder: Path, source: GGUFSource) -> None:
    (folder / LINK).symlink_to(source.path)
    (folder / NOTE).write_text(json.dumps(asdict(source), indent=1) + "\n", encoding="utf-8")


def _identity(file: Path) -> str:
    """Changes with the file, and with what reads it."""
    stat = file.stat()
    facts = [str(file), stat.st_size, stat.st_mtime_ns, FORMAT, _version("transformers"), _version("gguf")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Converter:
    """A process that makes `folder` of a GGUF file. It imports torch from the start, while a caller still fetches."""

    def __init__(self, folder: Path, *, dtype: str = "") -> None:
        """`dtype`: of weights that are written as safetensors; empty: they stay in the file."""
        self._command = [sys.executable, "-m", "workers.model.gguf.convert", str(folder), *([dtype] if dtype else [])]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        return self

    def convert(self, file: Path) -> None:
        """Raises: ConfigError: what is wrong with the file, or with the disk."""
        try:
            _, said = self._process.communicate(f"{file}\n", timeout=CONVERT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"model: {file} was not read within {CONVERT_TIMEOUT_S:g} s; try a local disk") from error
        if self._process.returncode:
            last = (said.strip().splitlines() or [f"it ended with {self._process.returncode}"])[-1]
            raise ConfigError(last.removeprefix("error: ") if last.startswith("error: ") else f"model: {file}: {last}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
