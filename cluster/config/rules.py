"""What values each key of the YAML may have; the types stand in `cluster.config.schema`."""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.config.adapter_names import MAX_ADAPTERS
from cluster.config.schema import MAX_RANKS
from workers.spec import KV_DTYPES

SERVING = ("prefill", "decode", "mixed")

CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "device": ("auto", "cpu", "cuda"),
    "load_format": ("auto", "dummy", "fake"),
    "generation_defaults": ("model", "neutral"),
    "kv.dtype": KV_DTYPES,
    "kv.transport": ("auto", "shm", "nccl", "gloo", "grpc", "cuda_ipc"),
    "kv.push": ("layer", "bulk"),
    "planner.mode": ("off", "advise", "act"),
    "logging.format": ("text", "json"),
    "speculation.method": ("auto", "none", "ngram", "self", "draft"),
    **{f"pools.{pool}.placement": ("pack", "spread") for pool in (*SERVING, "draft")},
}

MAX_WORKERS = 1024  # per pool
BOUNDS: Mapping[str, tuple[float, float]] = {  # both ends included
    "fake_step_s": (0, 60),
    **{f"pools.{pool}.workers": (0, MAX_WORKERS) for pool in (*SERVING, "draft")},
    **{f"pools.{pool}.tensor_parallel": (1, MAX_RANKS) for pool in SERVING},
    "pools.prefill.sequence_parallel": (1, MAX_RANKS),
    "pools.draft.layer_parallel": (1, MAX_RANKS),
    "engine.block_size": (1, 1024),
    "engine.memory": (1 << 16, 1 << 50),
    "engine.max_model_len": (1, 1 << 30),
    "engine.max_batched_tokens": (1, 1 << 20),
    "engine.max_sequences": (1, 1 << 16),
    "engine.sequence_parallel_over_tokens": (2, 1 << 30),
    "engine.state_cache_spacing": (1, 1 << 30),
    "kv.lease_s": (0.1, 3600),
    "kv.max_pending": (1, 1 << 16),
    "speculation.max_tokens": (1, 64),
    "speculation.tree_width": (1, 16),
    "adapters_dynamic.max_loaded": (1, MAX_ADAPTERS),
    "slo.ttft_ms": (0.001, 1e9),
    "slo.tpot_ms": (0.001, 1e9),
    "slo.attainment": (0.001, 1),
    "router.max_queue": (0, 1 << 20),
    "router.max_running": (1, 1 << 20),
    "router.disaggregate_over_tokens": (0, 1 << 30),
    "router.max_retries": (0, 100),
    "router.request_timeout_s": (0.001, 86400),
    "http.port": (0, 65535),
    "http.replicas": (1, 1024),
    "grpc.port": (0, 65535),
    "limits.max_body": (1 << 10, 1 << 30),
    "limits.max_header": (4 << 10, 120 << 10),  # HAProxy's buffer holds 127 KiB of them
    "limits.header_timeout_s": (0.1, 3600),
    "limits.body_timeout_s": (0.1, 3600),
    "limits.max_connections": (1, 1 << 20),
    "structured.max_size": (1 << 10, 16 << 20),
    "structured.compile_timeout_s": (0.01, 60),
    "structured.cache": (0, 1 << 34),
    "health.step_timeout_s": (0.1, 86400),
    "health.silence_timeout_s": (1, 86400),
    "health.start_timeout_s": (0.1, 86400),
    "health.drain_timeout_s": (0, 86400),
    "http.drain_timeout_s": (0, 86400),
    "planner.interval_s": (0.1, 86400),
    "planner.window_s": (1, 86400),
    "planner.cooldown_s": (0, 86400),
    "planner.min_workers": (1, MAX_WORKERS),
    "planner.max_workers": (0, 4 * MAX_WORKERS),
    "planner.max_error": (0.01, 100),
    "tracing.sample_ratio": (0, 1),
    "tracing.keep": (0, 1 << 20),
}


def _is_one(value: Any) -> bool:
    return type(value) is int and value == 1


def _never(value: Any) -> bool:
    return False


# Keys of the design that this version cannot do: (which values it may have nevertheless, the fix).
REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **{
        f"pools.draft.{key}": (_is_one, "ranks of a draft worker divide its layers: set layer_parallel")
        for key in ("tensor_parallel", "sequence_parallel", "pipeline_parallel")
    },
    **{
        f"pools.{pool}.layer_parallel": (_is_one, "layers are divided by draft workers alone: set it in pools.draft")
        for pool in SERVING
    },
    **{
        f"pools.{pool}.model": (_never, "these workers serve `model`, the key above pools; draft workers alone differ")
        for pool in SERVING
    },
    **{f"pools.{pool}.pipeline_parallel": (_is_one, "leave it out or set 1") for pool in SERVING},
    **{
        f"pools.{pool}.sequence_parallel": (
            _is_one,
            "prompts are divided by prefill workers alone: set it in pools.prefill",
        )
        for pool in ("decode", "mixed")
    },
}
