"""What `baton up` leaves on disk for the other commands: cluster.json and the secret, below $BATON_HOME.

Imports neither Ray nor torch. One folder is one cluster; another BATON_HOME is another cluster on the same machine.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from baton.errors import ConfigError
from cluster.host.file_lock import locked
from workers.telemetry.token import metrics_token

SECRET_WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Written before the first process starts, so that `baton down` finds what a crash left behind.

    Attributes:
        cluster_id: Every process of a local cluster has it in its environment as BATON_CLUSTER_ID.
        address: Of Ray's GCS; empty until Ray runs.
        keeper_pid: Of the process that holds the local Ray cluster; 0: Ray is somebody else's.
        folder: Ray's temporary files and logs; empty where Ray is somebody else's.
        starter_pid: Of the process that called for it.
        http: URL; empty until the ingress answers.
        grpc: host:port; the same.
    """

    cluster_id: str
    address: str = ""
    keeper_pid: int = 0
    folder: str = ""
    starter_pid: int = 0
    http: str = ""
    grpc: str = ""


def home() -> Path:
    return Path(os.environ.get("BATON_HOME") or Path.home() / ".baton").expanduser().absolute()


def read() -> ClusterState | None:
    """Raises: ConfigError: the file is there and holds something else."""
    path = home() / "cluster.json"
    try:
        return ClusterState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it when no cluster runs") from error


def write(state: ClusterState) -> None:
    path = _private_home() / "cluster.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def remove() -> None:
    (home() / "cluster.json").unlink(missing_ok=True)


def cluster_secret() -> str:
    """Of this home's clusters; made at the first call, readable to its owner alone."""
    return _secret("secret")


def metrics_token_path() -> Path:
    """File of what Prometheus shows to read metrics; made of the secret, which nobody finds from it."""
    path, token = home() / "metrics_token", metrics_token(cluster_secret())
    if not path.exists() or path.read_text(encoding="ascii") != token:
        _write_private(path, token)
    return path


def ray_token_path() -> Path:
    """File of the token that Ray's own connections of a local cluster carry."""
    _secret("ray_token")
    return home() / "ray_token"


@contextmanager
def lock(wait_s: float = 0.0) -> Iterator[None]:
    """One `up` or `down` at a time. Raises: ConfigError: another one is at it, and did not end within `wait_s`."""
    path = _private_home() / "lock"
    held = ConfigError(f"{path} is held: another `baton up` or `down` is at work; wait for it")
    with locked(path, wait_s, held):
        yield


def _secret(name: str) -> str:
    """Raises: ConfigError: its file is empty, and who sends none would be let in."""
    path = _private_home() / name
    if not path.exists():
        held = ConfigError(f"{path} is being made by another process; try again")
        with locked(path.with_name(f".{name}.lock"), SECRET_WAIT_S, held):
            if not path.exists():
                _write_private(path, secrets.token_hex(32))
    found = path.read_text(encoding="ascii").strip()
    if not found:
        raise ConfigError(f"{path} is empty; run `baton down`, remove the file, and another secret is made")
    return found


def _write_private(path: Path, text: str) -> None:
    """Whole, or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _private_home() -> Path:
    path = home()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"BATON_HOME: {path} cannot be made ({error.strerror}); choose another folder") from error
    return path
