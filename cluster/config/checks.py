"""What the keys of a config must be to each other; each by itself is checked where it is read (`load`)."""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from baton.errors import ConfigError
from cluster.config.schema import (
    AUTO,
    DEFAULT_DRAFTS,
    MAX_RANKS,
    MODEL_DRAFTS,
    BatonConfig,
    EngineConfig,
)
from workers.memory_shares import check_spacing

MAX_SERVED_NAME = 256  # characters


def check(config: BatonConfig) -> None:
    """Raises: ConfigError: of the first two keys that do not go together."""
    for one in _CHECKS:
        one(config)


def check_shared(config: BatonConfig) -> None:
    """Of what several models share. Raises: as `check`."""
    _check_ports(config)
    _check_tls(config)


def _check_phases(config: BatonConfig) -> None:
    pools = config.pools
    split = pools.prefill.workers + pools.decode.workers
    if pools.mixed.workers and split:
        raise ConfigError(
            f"pools.mixed.workers: {pools.mixed.workers} beside {split} prefill and decode workers is not supported "
            "yet; set either mixed, or prefill and decode"
        )
    for name, other in (("prefill", "decode"), ("decode", "prefill")):
        if not pools.mixed.workers and not getattr(pools, name).workers:
            raise ConfigError(
                f"pools.{name}.workers: 0 leaves nobody for {other}'s other half; give 1 or more, or use `mixed` alone"
            )


def _check_ranks(config: BatonConfig) -> None:
    for name, pool in config.pools.by_name():
        if pool.cores is not None and len(pool.cores) < pool.workers:
            raise ConfigError(
                f"pools.{name}.cores: {len(pool.cores)} lists for {pool.workers} workers; give one list per worker"
            )
    for name, pool in config.pools.serving():
        if pool.num_ranks > MAX_RANKS:
            raise ConfigError(
                f"pools.{name}.sequence_parallel: {pool.sequence_parallel} times tensor_parallel "
                f"{pool.tensor_parallel} are {pool.num_ranks} ranks for one worker; {MAX_RANKS} are the most, lower "
                "one of them"
            )


def check_draft_model(config: BatonConfig) -> None:
    """Raises: ConfigError: something drafts with a model, none is named, and the served one has none of its own."""
    if config.pools.draft.model or not config.wants_draft_model or config.model in (AUTO, *DEFAULT_DRAFTS):
        return
    num_workers = config.pools.draft.workers
    noun = "worker" if num_workers == 1 else "workers"
    wants = f"{num_workers} draft {noun}" if num_workers else "speculation.method: draft"
    known = ", ".join(f"`model: {model}` has {draft}" for model, draft in DEFAULT_DRAFTS.items())
    raise ConfigError(
        f"pools.draft.model: is left out, and for {wants} {config.shown_name} has no draft model of its own ({known}); "
        "name a small model with the same vocabulary"
    )


def _check_drafting(config: BatonConfig) -> None:
    num_workers, method = config.pools.draft.workers, config.speculation.method
    if num_workers and method not in MODEL_DRAFTS:
        raise ConfigError(
            f"pools.draft.workers: {num_workers} would idle, since speculation.method {method!r} drafts without them; "
            "set it to auto or draft, or pools.draft.workers: 0"
        )


def _check_model(config: BatonConfig) -> None:
    if not config.model:
        raise ConfigError("model: is empty; give `smollm2`, a folder, a GGUF file, or a Hub id, or leave it out")
    name = config.served_name
    if not name.isprintable() or name != name.strip() or len(name) > MAX_SERVED_NAME:
        raise ConfigError(
            f"served_name: {name[:60]!r} is no name that clients could send and logs could show; give up to "
            f"{MAX_SERVED_NAME} printable characters, without spaces around them"
        )


def _check_lengths(config: BatonConfig) -> None:
    length, spacing = config.engine.max_model_len, config.engine.state_cache_spacing
    if length is not None and length < config.engine.block_size:
        raise ConfigError(
            f"engine.max_model_len: {length} is below engine.block_size {config.engine.block_size}; use auto"
        )
    if spacing is not None and spacing % config.engine.block_size:
        raise ConfigError(
            f"engine.state_cache_spacing: {spacing} tokens are no multiple of engine.block_size "
            f"{config.engine.block_size}; give one, or auto"
        )
    if spacing is not None and not config.engine.prefix_cache:
        raise ConfigError(
            f"engine.state_cache_spacing: {spacing} is of the prefix cache, which engine.prefix_cache turns off; leave "
            "one of them out"
        )
    if length is not None:
        check_spacing(config.engine, length)


def check_kv_dtype(config: BatonConfig, device: str) -> None:
    """Raises: ConfigError: `kv.dtype` is not for workers of `device`, or for no model at all.

    Args:
        device: What `config.device` means; auto: not known yet.
    """
    if config.kv.dtype == AUTO:
        return
    if config.load_format == "fake":
        raise ConfigError(
            f"kv.dtype: {config.kv.dtype} is of the keys and values of a model, and load_format: fake has none; leave "
            "one of them out"
        )
    if device == "cpu":
        found = "device is cpu" if config.device == "cpu" else f"device: {config.device} is cpu here"
        raise ConfigError(f"kv.dtype: {config.kv.dtype} is read by a GPU's kernels, and {found}; set kv.dtype: auto")


def _check_kv_dtype(config: BatonConfig) -> None:
    check_kv_dtype(config, config.device)


def _check_budget(config: BatonConfig) -> None:
    budget, sequences = config.engine.max_batched_tokens, config.engine.max_sequences
    if budget <= sequences:
        raise ConfigError(
            f"engine.max_batched_tokens: {budget} leaves prompts nothing beside the tokens of engine.max_sequences "
            f"{sequences} answers; set it above that, or lower engine.max_sequences"
        )
    over_tokens = config.engine.sequence_parallel_over_tokens
    if over_tokens != EngineConfig().sequence_parallel_over_tokens and config.pools.prefill.sequence_parallel == 1:
        raise ConfigError(
            f"engine.sequence_parallel_over_tokens: {over_tokens} is for prompts that ranks divide; set "
            "pools.prefill.sequence_parallel to 2 or more, or leave it out"
        )


def _check_ports(config: BatonConfig) -> None:
    if config.http.port and config.http.port == config.grpc.port:
        raise ConfigError(f"grpc.port: {config.grpc.port} is http.port too; give another, or 0 for a free one")


def _check_tls(config: BatonConfig) -> None:
    tls = config.tls
    for name, other in (("certificate", "key"), ("key", "certificate"), ("client_ca", "certificate")):
        if getattr(tls, name) and not getattr(tls, other):
            raise ConfigError(
                f"tls.{other}: is left out beside tls.{name} {getattr(tls, name)}; give both, or neither for plain "
                "connections"
            )


def _check_planner(config: BatonConfig) -> None:
    least, most = config.planner.min_workers, config.planner.max_workers
    if most and most < least:
        raise ConfigError(
            f"planner.max_workers: {most} for all pools is below planner.min_workers {least} for each of them; raise "
            "it, or give 0 for as many as the config has"
        )


def _check_collector(config: BatonConfig) -> None:
    endpoint = config.tracing.otlp_endpoint
    if not endpoint:
        return
    try:
        parts = urlsplit(endpoint)
        is_fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port is none
        is_fit = False
    if not is_fit or parts.query or parts.fragment or parts.username is not None:
        shown = (
            "its user and password" if "@" in endpoint else repr(endpoint)
        )  # nobody's screen or log is to have those
        raise ConfigError(
            f"tracing.otlp_endpoint: {shown} is no address of a collector; give http://host:4318 (OTLP over HTTP; "
            "credentials go into OTEL_EXPORTER_OTLP_HEADERS)"
        )


_CHECKS: Sequence[Callable[[BatonConfig], None]] = (
    _check_phases,
    _check_ranks,
    _check_model,
    _check_drafting,
    check_draft_model,
    _check_lengths,
    _check_budget,
    _check_kv_dtype,
    _check_ports,
    _check_tls,
    _check_planner,
    _check_collector,
)
