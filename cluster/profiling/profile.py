"""A config's profile on this machine: measured by `measure`, fitted by the planner."""

import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.models.find import Silent, resolve_config
from cluster.planner.costs.fitted import Profile
from cluster.planner.costs.fitting import fit_errors, fit_steps, fit_transfer
from cluster.planner.costs.transfer import Path as TransferPath
from cluster.profiling.drafting import draft_worker, measure_chances
from cluster.profiling.local_cluster import by_worker
from cluster.profiling.measure import FULL, QUICK, Measured, MeasureProgress, measure
from cluster.profiling.points import StepPoint, TransferPoint
from cluster.profiling.sample_prompts import sample_prompts
from cluster.profiling.specs import available_cores, worker_specs
from workers.spec import Role, WorkerSpec

BUSY = 0.05  # share of its time that the measured worker may wait for its core before that is worth a word
UNSEEN_BANDWIDTH = 1e12  # bytes/s: more than any link's
OTHER_TRANSPORTS = {"cpu": ("gloo", "grpc"), "cuda": ("grpc",)}  # by device; `auto` is shm or nccl there


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    profile: Profile
    measured: Measured
    notes: tuple[str, ...]  # in plain words


def take_profile(config: BatonConfig, *, quick: bool, progress: MeasureProgress) -> Taken:
    """Of one worker of the config's pools, and of one of each other degree the steps; of its draft model, if it has
    one, the steps and how often it is right.

    Raises:
        ConfigError: Pools whose ranks have different numbers of cores, or what a worker says of the config.
        UnavailableError: A worker did not start, or failed.
    """
    workers = by_worker(worker_specs(config))
    _check_cores(workers)
    first, *others = measured_workers(workers)
    measured = _measured_with_neighbours(config, workers, first, quick=quick, progress=progress)
    steps = {str(degrees_of(ranks)): _steps(ranks, quick=quick, progress=progress) for ranks in others}
    drafts = _drafts(config, first, quick=quick, progress=progress)
    transfers, notes = fit_transfers(measured.transfers)
    return Taken(
        profile=fitted(config, first, measured, transfers, others=steps, drafts=drafts),
        measured=measured,
        notes=(*notes, *_busy(measured), *not_measured(config)),
    )


def measured_workers(workers: Sequence[Sequence[WorkerSpec]]) -> list[Sequence[WorkerSpec]]:
    """One of each degree, those first that decode: all is measured of the first one.

    Args:
        workers: The ranks of each, the leader first.
    """
    of_degree: dict[Parallelism, Sequence[WorkerSpec]] = {}
    for ranks in sorted(workers, key=lambda ranks: ranks[0].role is not Role.DECODE):
        of_degree.setdefault(degrees_of(ranks), ranks)
    return list(of_degree.values())


def degrees_of(ranks: Sequence[WorkerSpec]) -> Parallelism:
    gang = ranks[0].gang
    return Parallelism(tensor=gang.tensor_parallel, sequence=gang.sequence_parallel)


def _check_cores(workers: Sequence[Sequence[WorkerSpec]]) -> None:
    sizes = {ranks[0].worker_id: len(ranks[0].cores) for ranks in workers}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{worker_id} {size}" for worker_id, size in sizes.items())
        raise ConfigError(
            f"pools.*.cores: workers have different numbers of cores per rank ({told}); profile one size at a time"
        )


def _measured_with_neighbours(
    config: BatonConfig,
    workers: Sequence[Sequence[WorkerSpec]],
    ranks: Sequence[WorkerSpec],
    *,
    quick: bool,
    progress: MeasureProgress,
) -> Measured:
    """The worker of `ranks`, and what others cost it that hand over to it or compute beside it."""
    leaders, measured = [leader for leader, *_ in workers], ranks[0]
    taken = {core for rank in ranks for core in rank.cores}
    sender = _of(leaders, Role.DECODE if measured.role is Role.PREFILL else Role.PREFILL)
    other = sender or next((spec for spec in leaders if not set(spec.cores) & taken), None)
    return measure(
        ranks,
        transports=_transports(config, measured, quick=quick) if sender is not None else (),
        cores=other.cores if other is not None else (),
        effort=QUICK if quick else FULL,
        progress=progress,
    )


def _steps(ranks: Sequence[WorkerSpec], *, quick: bool, progress: MeasureProgress) -> list[StepPoint]:
    """Of the worker of `ranks`, alone."""
    return measure(ranks, transports=(), cores=(), effort=QUICK if quick else FULL, progress=progress).steps


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredDrafts:
    """Of the model that drafts."""

    name: str  # as the config has it
    steps: Sequence[StepPoint]
    chances: DraftChances


def _drafts(
    config: BatonConfig, target: Sequence[WorkerSpec], *, quick: bool, progress: MeasureProgress
) -> MeasuredDrafts | None:
    """None: the config drafts with no model. Raises: ConfigError: The target has no tokenizer for sample prompts."""
    config = resolve_config(config, Silent())
    draft = draft_worker(config, target[0])
    if draft is None:
        return None
    steps = _steps([draft], quick=quick, progress=progress)
    prompts, depth = sample_prompts(Path(target[0].model)), config.speculation.max_tokens
    chances = measure_chances(target, draft, prompts, depth=depth, quick=quick, progress=progress)
    return MeasuredDrafts(name=config.pools.draft.model, steps=steps, chances=chances)


def fitted(
    config: BatonConfig,
    ranks: Sequence[WorkerSpec],
    measured: Measured,
    transfers: Mapping[str, TransferPath],
    *,
    others: Mapping[str, Sequence[StepPoint]],
    drafts: MeasuredDrafts | None = None,
) -> Profile:
    """
    Args:
        ranks: Of the measured worker.
        others: The steps of workers of other degrees.
        drafts: None: nothing drafts with a model.
    Raises:
        ConfigError: Too few points to fit.
    """
    facts, degrees = measured.facts, degrees_of(ranks)
    latency = fit_steps(measured.steps)
    latencies = {str(degrees): latency} | {name: fit_steps(steps) for name, steps in others.items()}
    errors = dict(fit_errors(latency, measured.steps))
    for name, steps in others.items():
        errors |= {f"{name} {kind}": error for kind, error in fit_errors(latencies[name], steps).items()}
    drafting = {drafts.name: fit_steps(drafts.steps)} if drafts is not None else {}
    if drafts is not None:
        fit = drafting[drafts.name]
        errors |= {f"{drafts.name} {kind}": error for kind, error in fit_errors(fit, drafts.steps).items()}
    return Profile(
        model=config.model,
        fingerprint=facts["fingerprint"],
        dtype=ranks[0].dtype,
        kv_dtype=ranks[0].kv.dtype,
        machine=machine(),
        num_cores=len(ranks[0].cores),
        token_bytes=facts["token_bytes"],
        state_bytes=facts["state_bytes"],
        num_layers=facts["num_layers"],
        max_model_len=facts["max_model_len"],
        latencies=latencies,
        transfers=transfers,
        drafts=drafting,
        acceptance={drafts.name: drafts.chances} if drafts is not None else {},
        errors=errors,
        to_worker_s=measured.to_worker_s,
        to_client_s=measured.to_client_s,
        handover_s=measured.handover_s,
        receive_s=measured.receive_s,
        contention=measured.contention,
        start_s=measured.start_s,
        points=raw_points(measured, {**others, **({drafts.name: drafts.steps} if drafts is not None else {})}),
    )


def fit_transfers(points: Sequence[TransferPoint]) -> tuple[dict[str, TransferPath], list[str]]:
    """By transport; where the bytes made no difference, as with a tiny model's, all of the time is latency."""
    by_transport: dict[str, list[TransferPoint]] = defaultdict(list)
    for point in points:
        by_transport[point.transport].append(point)
    found: dict[str, TransferPath] = {}
    notes: list[str] = []
    for name, of_it in by_transport.items():
        try:
            found[name] = fit_transfer(of_it)
        except ConfigError as error:
            latency_s = statistics.median(point.transfer_s for point in of_it)
            found[name] = TransferPath(bandwidth=UNSEEN_BANDWIDTH, latency_s=latency_s)
            notes.append(f"KV over {name}: {error.message}; all of its time is taken for latency")
    return found, notes


def _busy(measured: Measured) -> list[str]:
    if measured.waited <= BUSY:
        return []
    return [
        f"the measured worker waited for its core {measured.waited:.0%} of the time: other programs run here; the "
        "calmer half of the rounds was taken, a quiet machine gives a better profile"
    ]


def not_measured(config: BatonConfig) -> list[str]:
    """In words, what the config has and its profile does not."""
    num_ranks = config.pools.draft.num_ranks
    if num_ranks == 1 or not config.wants_draft_model:
        return []
    return [f"draft workers of {num_ranks} ranks were measured as ones of one rank: what more save is not in a profile"]


def raw_points(measured: Measured, others: Mapping[str, Sequence[StepPoint]]) -> dict[str, list[dict[str, Any]]]:
    """As they go into the file beside the fits."""
    return {
        "steps": [asdict(point) for point in measured.steps],
        "transfers": [asdict(point) for point in measured.transfers],
        **{f"steps {name}": [asdict(point) for point in steps] for name, steps in others.items()},
    }


def machine() -> str:
    """In words: processor, cores, memory."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {platform.machine()}, {len(available_cores())} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    )


def _of(specs: Sequence[WorkerSpec], role: Role) -> WorkerSpec | None:
    return next((spec for spec in specs if spec.role is role), None)


def _transports(config: BatonConfig, spec: WorkerSpec, *, quick: bool) -> tuple[str, ...]:
    """The config's own, and the others that this machine has."""
    others = () if quick else OTHER_TRANSPORTS[spec.device]
    return tuple(dict.fromkeys((config.kv.transport, *others)))
