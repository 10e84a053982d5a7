"""Checks of the paths that commands are to write, before the work: a result must not be lost for a typing error."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import typer

from baton.errors import ConfigError

PICTURES = (".png", ".svg", ".pdf")


def check_outputs(outputs: Mapping[str, Path | None], *, inputs: Mapping[str, Path | None]) -> None:
    """By flag; None where not given. Raises: ConfigError: one cannot be written, or would write over another file."""
    given = {flag: path for flag, path in outputs.items() if path is not None}
    read = {flag: path for flag, path in inputs.items() if path is not None}
    for flag, path in given.items():
        check_writable(path, flag)
        for other, source in read.items():
            if path.resolve() == source.resolve():
                raise ConfigError(f"{flag} {path} would write over {other} {source}; give another file")
    for (first, one), (second, two) in combinations(given.items(), 2):
        if one.resolve() == two.resolve():
            raise ConfigError(f"{second} {two} would write over {first} {one}; give two files")


def check_writable(path: Path | None, flag: str) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"{flag} {path} cannot be written: its folder does not exist, or it is a folder")


@contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """Raises: ConfigError: the system would not have it: no space, or a place where no file can be made."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be written: {error.strerror or error}; give another file") from error


def check_picture(path: Path | None, flag: str) -> None:
    if path is None:
        return
    if path.suffix not in PICTURES:
        raise ConfigError(f"{flag} {path}: unknown kind {path.suffix!r}; choose one of {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{flag} {path} needs matplotlib; pip install 'baton-serve[bench]'")


def tell_written(paths: Iterable[Path | None]) -> None:
    written = ", ".join(str(path) for path in paths if path is not None)
    if written:
        typer.echo(f"written: {written}")
