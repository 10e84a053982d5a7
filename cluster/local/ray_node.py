"""A Ray cluster for this machine where there is none: started on loopback, found again, and ended without a trace.

Every process that comes of it carries BATON_CLUSTER_ID in its environment, so `stop` finds them all, whatever crashed
before. A cluster named by RAY_ADDRESS is somebody else's: joined, never stopped.
"""

import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from baton.errors import ConfigError, UnavailableError
from cluster.host import state
from cluster.host.signals import sigterm_kept
from cluster.host.state import ClusterState

CLUSTER_ID = "BATON_CLUSTER_ID"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 5.0
RAY_FOLDER = "ray"  # of its own in the cluster's private folder: Ray opens the one it is given to everybody
NUM_CPUS = 64  # of Ray's accounting: cores are shared out by `cluster.fleet.cores`
OBJECT_STORE_BYTES = 100 << 20  # tokens and tensors do not pass through it

logger = logging.getLogger(__name__)


def external_address() -> str | None:
    """The cluster that RAY_ADDRESS names."""
    return os.environ.get("RAY_ADDRESS") or None


def new_state() -> ClusterState:
    """Of a cluster that is about to start; the folder is made, private and short enough for Unix sockets."""
    folder = "" if external_address() else tempfile.mkdtemp(prefix="baton-")
    return ClusterState(
        cluster_id=secrets.token_hex(8), folder=folder, address=external_address() or "", starter_pid=os.getpid()
    )


def start(cluster: ClusterState, extra_env: Mapping[str, str]) -> ClusterState:
    """Starts the keeper and waits for Ray; the state on disk follows.

    Raises: UnavailableError: Ray did not come up; its last words are in the message.
    """
    env = {**os.environ, **extra_env, **ray_env(), CLUSTER_ID: cluster.cluster_id}
    env.pop("BATON_API_KEY", None)  # a client's, which no server needs
    log_path = Path(cluster.folder) / "keeper.log"
    ray_folder = f"{cluster.folder}/{RAY_FOLDER}"
    command = [sys.executable, "-m", "cluster.local.head", ray_folder, str(NUM_CPUS), str(OBJECT_STORE_BYTES)]
    with log_path.open("wb") as log:
        keeper = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    cluster = replace(cluster, keeper_pid=keeper.pid)
    state.write(cluster)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (address := _address(log_path)) is None:
        if keeper.poll() is not None or time.monotonic() > deadline:
            words = (log_path.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise UnavailableError(f"local Ray did not start (it said: {words}); see {log_path}, or run `baton doctor`")
        time.sleep(0.05)
    cluster = replace(cluster, address=address)
    state.write(cluster)
    return cluster


def ray_env() -> dict[str, str]:
    """Keeps Ray's processes on loopback, with a token on every connection, without reports to anybody.

    Must stand before `ray` is imported, in Ray's processes and in those that join.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for "this node's address is 127.0.0.1"
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state.ray_token_path()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "DASHBOARD_METRIC_PORT": "0",
        "RAY_worker_niceness": "0",  # else every worker and the ingress run at 15, behind all else on the machine
    }


def prepare(cluster: ClusterState, extra_env: Mapping[str, str] | None = None) -> None:
    """Sets this process's environment for `connect`; call it before anything imports Ray."""
    os.environ.update(extra_env or {})
    if not cluster.folder:
        return
    os.environ.update(ray_env())
    if "ray" in sys.modules:  # too late for its switch to be read from the environment
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = False


def connect(cluster: ClusterState, namespace: str, actors_env: Mapping[str, str] | None = None) -> None:
    """
    Args:
        actors_env: For the processes that come of this connection where Ray is somebody else's; those of a Ray of
            our own have it from `start`.
    Raises:
        UnavailableError: Nothing answers at the cluster's address.
        ConfigError: RAY_ADDRESS is no address.
    """
    if not cluster.folder:
        check_answers(cluster.address)
    prepare(cluster)
    import ray

    if ray.is_initialized():
        return
    _keep_errors_off_stdout()
    try:
        with sigterm_kept():
            ray.init(
                address=cluster.address,
                namespace=namespace,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": dict(actors_env)} if actors_env and not cluster.folder else None,
            )
    except (ConnectionError, RuntimeError) as error:
        raise UnavailableError(f"Ray at {cluster.address} does not answer {_why(error, cluster)}") from error


def check_answers(address: str) -> None:
    """Before Ray tries for two minutes, with words of its own.

    Raises: ConfigError: RAY_ADDRESS is no address. UnavailableError: nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(f"RAY_ADDRESS: {address!r} is no address; give host:port of the head node, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"RAY_ADDRESS: nothing answers at {address} ({error}); start Ray there with `ray start --head`, or unset "
            "RAY_ADDRESS for a cluster on this machine"
        ) from error


def _why(error: BaseException, cluster: ClusterState) -> str:
    """What Ray said, and what helps."""
    cause: BaseException | None = error
    while cause is not None:
        if "InvalidAuthToken" in str(cause):
            return "without its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH if it is not ~/.ray/auth_token"
        cause = cause.__cause__
    reason = (str(error).splitlines() or ["no reason given"])[0]
    return f"({reason}); {'run `baton down`, then up' if cluster.folder else 'see `ray status` there'}"


def disconnect() -> None:
    """Of this process; does nothing where it is not connected."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def _keep_errors_off_stdout() -> None:
    """Ray prints what its raylets report on the standard output of whoever is connected, `baton status --json` too."""
    from ray._private import worker

    def log(data: Any, ignore_prefix: bool) -> None:
        logger.info("ray reports lines=%s", data.get("lines"))

    worker.print_to_stdstream = log


def is_running(cluster: ClusterState) -> bool:
    """Whether the processes that the state names are there; always true where Ray is somebody else's."""
    if not cluster.folder:
        return True
    return bool(cluster.address) and any(process.pid == cluster.keeper_pid for process in processes(cluster))


def stop(cluster: ClusterState) -> None:
    """Ends every process of a local cluster and removes its files; nothing to do where Ray is somebody else's."""
    if cluster.folder:
        _end([process for process in processes(cluster) if process.pid == cluster.keeper_pid], STOP_TIMEOUT_S)
        for _ in range(3):  # a process may have been forked between the look and the kill
            _end(processes(cluster), 1.0)
        if _is_ours(cluster.folder):
            shutil.rmtree(cluster.folder, ignore_errors=True)
    state.remove()


def processes(cluster: ClusterState) -> list[psutil.Process]:
    """All processes of this cluster, this one aside.

    They have its id in their environment; but those that Ray renames ("ray::...") overwrite what others can read of
    theirs, and are known by the keeper's session instead.
    """
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs(process, cluster)]


def _belongs(process: psutil.Process, cluster: ClusterState) -> bool:
    try:
        if process.environ().get(CLUSTER_ID) == cluster.cluster_id:
            return True
        renamed = process.cmdline()[:1]
        in_session = cluster.keeper_pid > 0 and os.getsid(process.pid) == cluster.keeper_pid
        return in_session and bool(renamed) and renamed[0].startswith("ray::")
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError):
        return False  # somebody else's, or gone


def _end(targets: list[psutil.Process], timeout_s: float) -> None:
    for signal_ in (psutil.Process.terminate, psutil.Process.kill):
        for process in targets:
            try:
                signal_(process)
            except psutil.NoSuchProcess:
                continue
        _, targets = psutil.wait_procs(targets, timeout=timeout_s)


def _is_ours(folder: str) -> bool:
    path = Path(folder)
    return path.name.startswith("baton-") and path.parent == Path(tempfile.gettempdir())


def _address(log_path: Path) -> str | None:
    for line in log_path.read_text(errors="replace").splitlines():
        if line.startswith('{"address"'):
            address: str = json.loads(line)["address"]
            return address
    return None
