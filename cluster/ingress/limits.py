"""The configuration's limits on their way to the servers that Ray Serve starts in processes of its own.

A replica is told when it is made; proxies and HAProxy's manager, which nobody tells anything, read LIMITS_VARIABLE.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

from cluster.config.schema import LimitsConfig

DEFAULT_LIMITS = LimitsConfig()
LIMITS_VARIABLE = "BATON_INGRESS_LIMITS"
HANDSHAKE_TIMEOUT_MS = 10_000  # of a connection that says nothing to a gRPC server


def limits_variable(limits: LimitsConfig) -> dict[str, str]:
    return {LIMITS_VARIABLE: json.dumps(asdict(limits))}


def limits_of_environment(environment: Mapping[str, str] = os.environ) -> LimitsConfig:
    """The defaults where nothing is said: on a Ray cluster that somebody else started."""
    return LimitsConfig(**json.loads(environment.get(LIMITS_VARIABLE, "{}")))


def grpc_options(limits: LimitsConfig) -> list[tuple[str, int]]:
    """Of the public gRPC server."""
    return [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ]
