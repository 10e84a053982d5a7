"""A plan as a config for `baton up`, with its prediction and reasons as comments."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from baton.errors import ConfigError
from cluster.config.load import loads, to_tree
from cluster.config.schema import BatonConfig, EngineConfig, KVConfig, RouterConfig, SLOConfig
from cluster.planner.search.placement import Layout, PoolPlan
from cluster.planner.search.trial import Question
from workers.memory_shares import memory_for

WIDTH = 100  # of a comment's line
BURST = 2.0  # requests under way at once, of the mean: what the router must allow


def plan_text(
    question: Question,
    layout: Layout,
    comments: Sequence[str],
    *,
    model: str,
    device: str,
    transport: str,
    kv_dtype: str = "auto",
    draft: str | None = None,
) -> str:
    """YAML that `baton up` takes, or refuses by name where the layout is not runnable yet; checked here to be so.

    Args:
        draft: The model of draft workers, where the layout has some.
    """
    config = _config(question, layout, model=model, device=device, kv=KVConfig(dtype=kv_dtype, transport=transport))
    tree = {"model": model, **_changed(to_tree(config), to_tree(BatonConfig()))}
    tree["pools"] = {str(pool.role): _pool_tree(pool) for pool in layout.pools}
    drafted = next((pool for pool in layout.pools if pool.shape.draft), None)
    if drafted is not None and drafted.shape.draft is not None:
        tree["pools"]["draft"] = {
            "workers": drafted.num_workers,
            "model": draft,
            "layer_parallel": drafted.shape.draft.layer_parallel,
        }
        tree["speculation"] = {"max_tokens": drafted.shape.draft.num_drafts}
    head = "".join(f"# {line}".rstrip() + "\n" for comment in comments for line in _wrapped(comment))
    text = head + yaml.safe_dump(tree, sort_keys=False)
    _check(text, layout)
    return text


def _wrapped(comment: str) -> list[str]:
    """At words, further in than it began; never a command: it is to be copied."""
    if comment.startswith("Made by: "):
        return [comment]
    indent = " " * (len(comment) - len(comment.lstrip()) + 2)
    return textwrap.wrap(comment, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _changed(tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults; the SLO in any case."""
    changed: dict[str, Any] = {}
    for key, value in tree.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict) and key != "slo":
            value = _changed(value, default)
        if value not in (default, {}) or key == "slo":
            changed[key] = value
    return changed


def _pool_tree(pool: PoolPlan) -> dict[str, int]:
    degrees = pool.shape.parallelism
    tree = {
        "workers": pool.num_workers,
        "tensor_parallel": degrees.tensor,
        "sequence_parallel": degrees.sequence,
        "pipeline_parallel": degrees.pipeline,
    }
    return {key: value for key, value in tree.items() if key == "workers" or value > 1}


def _check(text: str, layout: Layout) -> None:
    try:
        loads(text)
    except ConfigError:
        assert layout.missing_features, "a plan that can be started must be a valid config"
    else:
        assert not layout.missing_features, "a plan that cannot be started must be refused"


def _config(question: Question, layout: Layout, *, model: str, device: str, kv: KVConfig) -> BatonConfig:
    slo = question.slo
    rate = question.rate / layout.num_replicas
    num_running = round(BURST * rate * question.stay_s)
    defaults = RouterConfig()
    return BatonConfig(
        model=model,
        device=device,
        engine=_with_memory(layout, question),
        kv=kv,
        slo=SLOConfig(ttft_ms=slo.ttft_s * 1000, tpot_ms=slo.tpot_s * 1000, attainment=slo.attainment),
        router=RouterConfig(
            max_running=max(_power(num_running), defaults.max_running),
            max_queue=max(_power(round(BURST * rate)), defaults.max_queue),
        ),
    )


def _with_memory(layout: Layout, question: Question) -> EngineConfig:
    """One size for all workers, in whole MiB: that of the pool with the least blocks."""
    num_blocks = min(pool.shape.fit.num_blocks for pool in layout.pools)
    costs = question.costs
    held = memory_for(layout.engine, num_blocks, token_nbytes=costs.token_bytes, state_nbytes=costs.state_bytes)
    mib = 1 << 20
    return replace(layout.engine, memory_bytes=max(held // mib, 1) * mib)


def _power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
