"""Looks at a model's folder and at the device before anything starts.

What is wrong there would otherwise show when ingress and workers load it, a quarter of a minute later. Only what takes
no torch is looked at: whether the architecture is known, transformers says in the workers.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from baton.errors import ConfigError
from cluster.config.entries import fleets_of
from cluster.config.schema import MODEL_DRAFTS, BatonConfig
from cluster.host.cpus import usable
from cluster.ingress.chat.model_formats import ModelFormats
from cluster.ingress.generation_defaults import generation_defaults
from cluster.ingress.model_json import read_json
from cluster.ingress.tokenizer import Tokenizer
from cluster.models.adapters import find_adapters
from workers.memory_shares import check_spacing
from workers.model import specs
from workers.model.gguf.folder import gguf_source
from workers.model.tensor_parallel.share import check_degree
from workers.speculative.methods import check_goes_with_states

GPU_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # the last: Windows' subsystem for Linux


def check_model(folder: Path, config: BatonConfig) -> None:
    """Raises: ConfigError: a file of `folder` is missing, cut short or not what it should be."""
    _check_spacing(folder, config)
    generation_defaults(str(folder), config.generation_defaults)
    ModelFormats(Tokenizer(str(folder)), tools=config.tools.parser, reasoning=config.reasoning.parser)
    if config.load_format == "auto" and gguf_source(folder) is None:
        specs.weight_scheme(folder)
        specs.num_parameters(specs.weight_files(folder))
    find_adapters(config, folder)
    if config.load_format != "fake":
        told = text_config(read_json(folder / "config.json"))
        _check_degrees(told, config)
        if getattr(told, "model_type", None) in specs.LINEAR_FAMILIES:
            check_goes_with_states(config.speculation.method, config.shown_name)


def as_every_node(config: BatonConfig) -> BatonConfig:
    """The config for a Ray of our own on this machine, which counts as every node that pools ask for."""
    pools = {
        name: replace(getattr(config.pools, name), resources={}, labels={})
        for name, pool in config.pools.by_name()
        if pool.is_choosy
    }
    return replace(config, pools=replace(config.pools, **pools)) if pools else config


def text_config(told: dict[str, Any]) -> Any:
    """Of what is served: of a multimodal checkpoint that is its text model alone."""
    text = told.get("text_config") if told.get("model_type") in specs.TEXT_LOADS_ALONE else None
    return SimpleNamespace(**(text if isinstance(text, dict) else told))


def _check_degrees(told: Any, config: BatonConfig) -> None:
    """`told`: what config.json says. Where it leaves heads to transformers' defaults, workers will say."""
    if not all(hasattr(told, name) for name in ("model_type", "num_attention_heads", "num_key_value_heads")):
        return
    for name, pool in config.pools.serving():
        try:
            check_degree(told, pool.tensor_parallel)
        except ConfigError as error:
            raise ConfigError(f"pools.{name}.{error.message}") from error


def _check_spacing(folder: Path, config: BatonConfig) -> None:
    """Where config.json says how long a sequence may be; else workers will say."""
    told = read_json(folder / "config.json")
    length = told.get("max_position_embeddings")
    if isinstance(length, int):
        check_spacing(config.engine, length)


def check_device(config: BatonConfig) -> None:
    """Raises: ConfigError: a GPU is asked for on a machine that shows none."""
    if config.device == "cuda" and not any(_gpus()):
        raise ConfigError(
            "device: cuda is asked for, but this machine shows no NVIDIA GPU; set `device: cpu` or auto, or install "
            "the driver"
        )


def check_cores(config: BatonConfig) -> None:
    """Raises: ConfigError: a core that this machine does not have; a worker would run on all cores instead."""
    if not hasattr(os, "sched_getaffinity"):
        return
    available = os.sched_getaffinity(0)
    for name, pool in config.pools.by_name():
        missing = sorted({core for cores in pool.cores or () for core in cores} - available)
        if missing:
            raise ConfigError(
                f"pools.{name}.cores: {missing[0]} is no core of this machine; choose among "
                f"{', '.join(map(str, sorted(available)))}, or leave it out"
            )


def warnings(config: BatonConfig) -> Iterator[str]:
    """What works on this machine, but not well."""
    for entry, fleet in fleets_of(config):
        yield from (f"models.{entry}.{text}" if entry else text for text in _warnings_of(fleet))
    num_ranks, num_cores = ranks_and_cores(config)
    if num_ranks > num_cores and config.device != "cuda" and not (config.device == "auto" and any(_gpus())):
        yield (
            f"pools: {num_ranks} ranks on {num_cores} cores: each wants a core of its own, those that share one slow "
            "each other down; fewer workers or ranks are faster"
        )


def _warnings_of(config: BatonConfig) -> Iterator[str]:
    draft, method = config.pools.draft.model, config.speculation.method
    num_layers = config.pools.draft.layer_parallel
    if draft and method not in MODEL_DRAFTS:
        yield f"pools.draft.model: {draft} is not used, since speculation.method is {method}; set auto or draft"
    if config.drafts_locally and num_layers > 1:
        yield (
            f"pools.draft.layer_parallel: {num_layers} is not used, since pools.draft.workers is 0: each worker that "
            "decodes computes its draft model alone; give draft workers"
        )


def ranks_and_cores(config: BatonConfig) -> tuple[int, int]:
    """Ranks of all workers of all models, and cores that this process may use at once."""
    pools = [pool for _, fleet in fleets_of(config) for _, pool in fleet.pools.by_name()]
    return sum(pool.workers * pool.num_ranks for pool in pools), len(usable().cores)


def _gpus() -> Iterator[str]:
    if os.name != "posix" or not Path("/dev").is_dir():
        yield "unknown: torch in the workers will say"
    yield from (path for path in GPU_DEVICES if Path(path).exists())
