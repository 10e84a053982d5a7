"""What a changed key does to a cluster that runs. docs/rolling.md has the same table."""

import enum
from collections.abc import Mapping


class Effect(enum.StrEnum):
    LIVE = "live"  # at once, nothing is started anew
    WORKERS = "workers"  # replaced a few at a time
    INGRESS = "ingress"  # its replicas are replaced; streams that run go on
    BOTH = "both"  # another model: all workers anew beside the old ones, then the ingress, then the old ones go
    DOWN = "down"  # refused: `baton down` first


# The longest prefix of a key counts.
EFFECTS: Mapping[str, Effect] = {
    "model": Effect.BOTH,
    "served_name": Effect.LIVE,
    "allow_special_tokens": Effect.LIVE,
    "generation_defaults": Effect.LIVE,
    "tools": Effect.LIVE,
    "reasoning": Effect.LIVE,
    "dtype": Effect.BOTH,
    "device": Effect.WORKERS,
    "load_format": Effect.BOTH,
    "fake_step_s": Effect.WORKERS,
    "pools": Effect.WORKERS,
    "pools.prefill.workers": Effect.LIVE,
    "pools.decode.workers": Effect.LIVE,
    "pools.mixed.workers": Effect.LIVE,
    "pools.draft.workers": Effect.LIVE,
    "engine": Effect.WORKERS,
    "kv": Effect.WORKERS,
    "speculation": Effect.WORKERS,
    "adapters": Effect.LIVE,
    "adapters_dynamic.folders": Effect.LIVE,
    "adapters_dynamic.max_loaded": Effect.LIVE,
    "slo": Effect.INGRESS,
    "router": Effect.LIVE,
    "http.host": Effect.DOWN,
    "http.port": Effect.DOWN,
    "http.node_resource": Effect.DOWN,
    "http.replicas": Effect.INGRESS,
    "http.drain_timeout_s": Effect.INGRESS,
    "http.cors_origins": Effect.INGRESS,
    "grpc": Effect.DOWN,
    "tls": Effect.DOWN,
    "auth": Effect.INGRESS,
    "limits": Effect.DOWN,  # HAProxy and Serve's proxies, which know them too, are told when they start
    "structured": Effect.INGRESS,
    "health.step_timeout_s": Effect.LIVE,
    "health.start_timeout_s": Effect.LIVE,
    "health.silence_timeout_s": Effect.LIVE,
    "health.drain_timeout_s": Effect.LIVE,
    "planner": Effect.LIVE,
    "tracing": Effect.INGRESS,
    "logging": Effect.INGRESS,
    "metrics": Effect.INGRESS,
}


def effect_of(key: str) -> Effect:
    """Of a dotted key, as `flatten` names it."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        effect = EFFECTS.get(".".join(parts[:length]))
        if effect is not None:
            return effect
    raise KeyError(f"{key}: nobody says what its change does")
