"""What `baton simulate` is given, read and checked: the cluster, its costs, the requests, the faults."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from baton.errors import ConfigError
from cluster.commands.synthetic_load import check_rate, synthetic_arrivals
from cluster.config import BatonConfig
from cluster.config_load import to_tree
from cluster.planner import workload
from cluster.planner.slo import SLO
from cluster.simulator.contract import Arrival, Fault, SimCluster
from cluster.simulator.faults import check_targets, parse_faults
from cluster.simulator.from_config import worker_roles
from cluster.trace_file import read_trace

NUM_REQUESTS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The options, as given; None where not."""

    trace: Path | None = None
    limit: int | None = None
    rate: float | None = None
    num_requests: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    gap_cv: float | None = None
    clip: bool = False
    faults: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    cluster: SimCluster
    arrivals: Sequence[Arrival]
    faults: Sequence[Fault]
    slo: SLO
    title: str
    notes: Sequence[str]
    about: dict[str, Any]  # for the result's file


def read_inputs(
    config: BatonConfig, load: Load, *, profile: Path | None, hardware: str | None, model: str | None
) -> Inputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, a request or fault that cannot be.
    """
    _check_options(load, profile=profile, hardware=hardware, model=model)
    notes: list[str] = []
    if profile is not None:
        from cluster.commands.simulate_costs import from_profile

        cluster, costs = from_profile(config, profile)
    else:
        from cluster.commands.simulate_costs import from_hardware

        assert hardware is not None
        config = replace(config, model=model or config.model)
        cluster, costs = from_hardware(config, hardware)
    arrivals = _arrivals(load, cluster, notes)
    faults = _faults(load, config, arrivals)
    slo = SLO(ttft_s=config.slo.ttft_ms / 1e3, tpot_s=config.slo.tpot_ms / 1e3, attainment=config.slo.attainment)
    asked = {**asdict(load), "trace": str(load.trace) if load.trace else None}
    return Inputs(
        cluster=cluster,
        arrivals=arrivals,
        faults=faults,
        slo=slo,
        title=f"{config.model} ({costs}): {_pools(cluster)}, {_summary(arrivals)}",
        notes=notes,
        about={"model": config.model, "costs": costs, "config": to_tree(config), "load": asked},
    )


def _check_options(load: Load, *, profile: Path | None, hardware: str | None, model: str | None) -> None:
    if (profile is None) is (hardware is None):
        given = "both were given" if profile is not None else "neither was given"
        raise ConfigError(f"--profile FILE or --hardware NAME: {given}; give one of them")
    if profile is not None and model is not None:
        raise ConfigError(f"--model {model}: a profile is of its own model; leave --model out, or give --hardware")
    check_rate(load.rate, load.trace)
    if load.gap_cv is not None and not 0 <= load.gap_cv < float("inf"):
        raise ConfigError(f"--gap-cv {load.gap_cv:g} must be 0 or more; 1 is Poisson")
    if load.trace is None:
        if load.limit is not None:
            raise ConfigError(f"--limit {load.limit} counts rows of --trace; give --trace too, or --num-requests")
        return
    for flag, value in (
        ("--num-requests", load.num_requests),
        ("--input-len", load.input_len),
        ("--output-len", load.output_len),
        ("--gap-cv", load.gap_cv),
    ):
        if value is not None:
            raise ConfigError(f"{flag} {value:g} is for synthetic requests, --trace has its own; leave one of them out")


def _arrivals(load: Load, cluster: SimCluster, notes: list[str]) -> list[Arrival]:
    rng = np.random.default_rng(load.seed)
    block_size = cluster.engine.block_size
    if load.trace is not None:
        rows = read_trace(load.trace, limit=load.limit)
        arrivals = workload.from_trace(rows, block_size=block_size, rng=rng)
        if load.rate is not None:
            arrivals = workload.rescale(arrivals, load.rate)
    else:
        assert load.rate is not None
        arrivals = synthetic_arrivals(
            rate=load.rate,
            num_requests=load.num_requests or NUM_REQUESTS,
            input_len=load.input_len,
            output_len=load.output_len,
            gap_cv=load.gap_cv,
            rng=rng,
        )
    return _fitted(arrivals, load, cluster, notes)


def _fitted(arrivals: list[Arrival], load: Load, cluster: SimCluster, notes: list[str]) -> list[Arrival]:
    """Synthetic lengths are drawn, so they are cut in any case; a trace's only when told to."""
    limit = cluster.max_model_len
    fitted, num_cut = workload.clip(arrivals, limit, block_size=cluster.engine.block_size)
    if num_cut and load.trace is not None and not load.clip:
        index = next(i for i, (before, after) in enumerate(zip(arrivals, fitted, strict=True)) if before is not after)
        first = arrivals[index]
        raise ConfigError(
            f"--trace {load.trace}: request {index + 1} has {first.num_prompt_tokens} + {first.num_output_tokens} "
            f"tokens, the context holds {limit}, and so for {num_cut} requests; give --clip to cut them"
        )
    if num_cut:
        notes.append(f"{num_cut} of {len(fitted)} requests were cut to the context of {limit} tokens")
    return fitted


def _faults(load: Load, config: BatonConfig, arrivals: Sequence[Arrival]) -> list[Fault]:
    faults = parse_faults(load.faults)
    check_targets(faults, worker_roles(config))
    last_s = arrivals[-1].at_s
    for fault in faults:
        if fault.at_s > last_s:
            raise ConfigError(
                f"faults: {fault.kind}: time {fault.at_s:g}s is after the last request's, {last_s:.1f}s; "
                "give an earlier one, or more requests"
            )
    return faults


def _pools(cluster: SimCluster) -> str:
    return " + ".join(f"{pool.num_workers} {pool.role}" for pool in cluster.pools)


def _summary(arrivals: Sequence[Arrival]) -> str:
    if len(arrivals) < 2 or arrivals[-1].at_s <= arrivals[0].at_s:
        return f"{len(arrivals)} requests at once"
    return f"{len(arrivals)} requests at {workload.mean_rate(arrivals):.2f}/s"
