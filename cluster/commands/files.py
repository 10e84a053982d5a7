"""Checks of the paths that commands are to write, before the work: a result must not be lost for a typing error."""

from importlib.util import find_spec
from pathlib import Path

from baton.errors import ConfigError

PICTURES = (".png", ".svg", ".pdf")


def check_writable(path: Path | None, flag: str) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"{flag} {path} cannot be written: its folder does not exist, or it is a folder")


def check_picture(path: Path | None, flag: str) -> None:
    if path is None:
        return
    if path.suffix not in PICTURES:
        raise ConfigError(f"{flag} {path}: unknown kind {path.suffix!r}; choose one of {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{flag} {path} needs matplotlib; pip install 'baton-serve[bench]'")
