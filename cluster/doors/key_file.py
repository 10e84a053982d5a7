"""The keys file: read by every ingress replica, written by `baton key`. It holds hashes, never a key."""

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from baton.errors import ConfigError
from cluster.config.api_key import APIKey
from cluster.config.api_keys import parse_keys, plain_keys
from cluster.config.load import BAD_VALUES
from cluster.host.file_lock import locked

PREFIX = "bt-"
MAX_FILE_BYTES = 16 << 20
LOCK_WAIT_S = 10.0
_HEADER = "# API keys of Baton, by `baton key`; a server that runs reads this file again when it changes.\n"

_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):  # type: ignore[misc]  # which of the two it is, the platform says
    """Of a field that stands twice, PyYAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if len(names) != len({str(name) for name in names}):
            raise yaml.constructor.ConstructorError(None, None, "a field stands twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def new_key() -> str:
    """256 random bits, in letters that need no quotes."""
    return PREFIX + secrets.token_hex(32)


def hashed(key: str) -> str:
    """A plain SHA-256: what it hashes is random, so there is nothing to guess that a slow hash would protect."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: str, field: str = "auth.keys_file") -> tuple[APIKey, ...]:
    """
    Args:
        field: What errors begin with.
    Raises:
        ConfigError: It cannot be read, or is no keys file. Nothing that stands in it is shown.
    """
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{field}: {path} is over {MAX_FILE_BYTES >> 20} MiB; it is no keys file")
        tree: Any = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{field}: {path} does not exist; `baton key create NAME --file {path}` makes it") from None
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror}); let this user read it") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{field}: {path} is not UTF-8 text; `baton key create` makes a keys file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        twice = ", or a field that stands twice" if isinstance(error, yaml.constructor.ConstructorError) else ""
        raise ConfigError(f"{field}: {path} is no YAML{line}{twice}; check indentation and quotes there") from None
    except BAD_VALUES:
        raise ConfigError(
            f"{field}: {path} has a value that cannot be, e.g. a date like 2030-02-31; look at what was changed last"
        ) from None
    if tree is None:
        return ()
    if not isinstance(tree, dict) or set(tree) - {"keys"}:
        raise ConfigError(f"{field}: {path} has not `keys:` alone at its top; `baton key create` makes a keys file")
    return parse_keys(tree.get("keys") or [], f"{path}: keys")


def change_keys(path: Path, change: Callable[[Sequence[APIKey]], Sequence[APIKey]]) -> None:
    """Reads, changes and replaces the file in one go, by one process at a time; a reader sees the old or the new one.

    A file that is new is its owner's alone; one that was there keeps its mode and owner.
    Raises: ConfigError: It cannot be read or written, or `change` does not want to.
    """
    held = ConfigError(f"--file {path} is being changed by another process; try again")
    try:
        with locked(path.with_name(f".{path.name}.lock"), LOCK_WAIT_S, held):
            old = path.stat() if path.exists() else None
            keys = change(read_keys(str(path), "--file") if old else ())
            new = path.with_name(f".{path.name}.new")
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_HEADER + yaml.safe_dump({"keys": plain_keys(keys)}, sort_keys=False))
                if old is not None:
                    _keep_owner(file.fileno(), old)
            new.replace(path)
    except OSError as error:
        raise ConfigError(f"--file {path} cannot be written ({error.strerror}); give another file") from error


def _keep_owner(descriptor: int, old: os.stat_result) -> None:
    os.fchmod(descriptor, old.st_mode & 0o777)
    if (old.st_uid, old.st_gid) != (os.getuid(), os.getgid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
