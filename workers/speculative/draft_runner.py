"""The draft model that a decode worker runs itself, beside the target: same device, same type, blocks of its own."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from workers.model.contract import ModelRunner
from workers.spec import EngineSpec, GangSpec, WorkerSpec

logger = logging.getLogger(__name__)


def load_draft_runner(spec: WorkerSpec, target: ModelRunner) -> ModelRunner:
    """Of `spec.draft_model`, loaded and warmed up; one rank computes all of it.

    Raises:
        ConfigError: The model cannot be served, has another vocabulary than the target, or keeps states.
    """
    runner = _fake(spec, target) if spec.fake else _loaded(spec, target)
    num_tokens = runner.num_blocks * runner.store.block_size
    logger.info("draft model worker_id=%s model=%s num_tokens=%d", spec.worker_id, _name(spec), num_tokens)
    return runner


def _fake(spec: WorkerSpec, target: ModelRunner) -> ModelRunner:
    from workers.model.fake import FakeRunner

    runner = FakeRunner(replace(spec, model=spec.draft_model, adapters=()))
    _check_vocabulary(spec, runner.vocab_size, target)
    return runner


def _loaded(spec: WorkerSpec, target: ModelRunner) -> ModelRunner:
    from workers.model.loader import read_config
    from workers.model.runner import TorchRunner
    from workers.model.specs import LINEAR_FAMILIES

    config = read_config(Path(spec.draft_model))
    if config.model_type in LINEAR_FAMILIES:
        raise ConfigError(
            f"draft_model: {_name(spec)} keeps a state that a wrong guess cannot be taken out of; give a model "
            "without linear attention"
        )
    _check_vocabulary(spec, int(config.vocab_size), target)
    engine = _engine(spec, config, target)
    runner = TorchRunner(replace(spec, model=spec.draft_model, engine=engine, gang=GangSpec(), adapters=()))
    runner.warm_up()
    return runner


def _check_vocabulary(spec: WorkerSpec, draft_size: int, target: ModelRunner) -> None:
    if draft_size != target.vocab_size:
        raise ConfigError(
            f"draft_model: {_name(spec)} has a vocabulary of {draft_size} tokens, {spec.model_name or spec.model} one "
            f"of {target.vocab_size}; give a draft model with the same vocabulary"
        )


def _name(spec: WorkerSpec) -> str:
    return spec.draft_model_name or spec.draft_model


def _engine(spec: WorkerSpec, config: Any, target: ModelRunner) -> EngineSpec:
    """With blocks for the tokens that the target's hold, or for `max_sequences` of the longest, if that is less."""
    from workers.model.kv_scales import kv_dtype
    from workers.model.loader import DTYPES
    from workers.model.specs import max_positions
    from workers.model.tensor_parallel.share import num_kv_heads

    engine = spec.engine
    length = min(target.max_model_len, max_positions(config))
    num_blocks = min(target.num_blocks, engine.max_sequences * -(-length // engine.block_size))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    itemsize = kv_dtype(spec, DTYPES[spec.dtype]).itemsize
    token_nbytes = 2 * config.num_hidden_layers * num_kv_heads(config) * head_dim * itemsize
    memory_bytes = num_blocks * engine.block_size * token_nbytes
    return replace(engine, memory_bytes=memory_bytes, max_model_len=None, state_cache_spacing=None)
