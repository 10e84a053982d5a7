"""What `baton simulate` is given, read and checked: the cluster, its costs, the requests, the faults."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions, read_profile
from cluster.commands.load.arrivals import read_requests
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.simulate.costs import drafting_model, from_hardware, from_profile
from cluster.commands.simulate.options import NUM_REQUESTS, RunOptions
from cluster.config.checks import check_draft_model
from cluster.config.load import to_tree
from cluster.config.schema import AUTO, DEFAULT_MODEL, BatonConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.simulation import Arrival, Fault, SimCluster
from cluster.contracts.slo import SLO, slo_of
from cluster.planner.load import workload
from cluster.simulator.faults import GRAMMAR, check_targets, parse_faults
from cluster.simulator.from_config import worker_roles
from workers.spec import Role
from workers.speculative.methods import NONE, SELF


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateInputs:
    config: BatonConfig
    cluster: SimCluster
    arrivals: Sequence[Arrival]
    faults: Sequence[Fault]
    slo: SLO
    title: str
    notes: Sequence[str]
    about: dict[str, Any]  # for the result's file


def read_inputs(config: BatonConfig, costs: CostOptions, load: ArrivalOptions, run: RunOptions) -> SimulateInputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, a request or fault that cannot be.
    """
    costs.check()
    load.check()
    run.check(load)
    config = _with_model(config, costs)
    if run.autopilot:
        config = replace(config, planner=replace(config.planner, mode="act"))
    _check_drafts(config, run)
    cluster, source = _read_cluster(config, costs, run.draft_chances)
    requests = read_requests(
        load,
        num_synthetic=run.num_requests or NUM_REQUESTS,
        seed=run.seed,
        model=config.model,
        max_model_len=cluster.max_model_len,
        block_size=cluster.engine.block_size,
    )
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in (asdict(load) | asdict(run)).items()
    }
    return SimulateInputs(
        config=config,
        cluster=cluster,
        arrivals=requests.arrivals,
        faults=() if run.faults is None else _faults(run.faults, config, requests.arrivals),
        slo=slo_of(config.slo),
        title=f"{config.model} ({source}): {_pools(cluster)}, {_summary(requests.arrivals)}",
        notes=(*requests.notes, *_notes(config, cluster, costs)),
        about={"model": config.model, "costs": source, "config": to_tree(config), "load": given},
    )


def _with_model(config: BatonConfig, costs: CostOptions) -> BatonConfig:
    """Where the file names no model, the profile does; without one, it is the model that a start would serve."""
    if config.model != AUTO:
        return config
    return replace(config, model=DEFAULT_MODEL if costs.profile is None else read_profile(costs.profile).model)


def _check_drafts(config: BatonConfig, run: RunOptions) -> None:
    check_draft_model(config)
    method = config.speculation.method
    if run.draft_acceptance is not None and method == NONE:
        raise ConfigError("--draft-acceptance: speculation.method is none in the config: nothing drafts; leave it out")
    if run.draft_acceptance is not None and method == SELF:
        raise ConfigError(
            "--draft-acceptance: speculation.method is self in the config, and what drafts of skipped layers cost is "
            "not known here; leave it out, or set another method"
        )


def _read_cluster(config: BatonConfig, costs: CostOptions, told: DraftChances | None) -> tuple[SimCluster, str]:
    if costs.profile is not None:
        return from_profile(config, costs.profile, told)
    assert costs.hardware is not None, "CostOptions.check asks for one of them"
    return from_hardware(config, costs.hardware, told)


def _faults(text: str, config: BatonConfig, arrivals: Sequence[Arrival]) -> list[Fault]:
    faults = parse_faults(text)
    if not faults:
        raise ConfigError(f"--faults {text!r} names no fault; write {GRAMMAR}, or leave it out")
    roles = worker_roles(config)
    check_targets(faults, roles)
    last_s = arrivals[-1].at_s
    for fault in faults:
        if fault.at_s > last_s:
            raise ConfigError(
                f"faults: {fault.kind}: time {fault.at_s:g}s is after the last request's, {last_s:.1f}s; "
                "give an earlier one, or more requests"
            )
    kinds = {fault.kind for fault in faults}
    if "slow_link" in kinds and Role.MIXED in roles.values():
        raise ConfigError("faults: slow_link: no KV moves between mixed workers; leave it out, or simulate two pools")
    if kinds == {"slow_start"}:
        raise ConfigError("faults: slow_start: no worker starts meanwhile; add what makes one start, as kill@30s")
    return faults


def _notes(config: BatonConfig, cluster: SimCluster, costs: CostOptions) -> tuple[str, ...]:
    draft, num_ranks = drafting_model(config), config.pools.draft.num_ranks
    if not draft:
        return ()
    if any(pool.drafts is not None for pool in cluster.pools):
        alone = (
            f"draft workers of {num_ranks} ranks are simulated as ones of one rank: what more save is not known here"
        )
        return (alone,) if num_ranks > 1 else ()
    if costs.profile is not None and draft not in read_profile(costs.profile).drafts:
        lacks = f"drafts are not simulated: the profile holds no costs of {draft}"
        return (f"{lacks}; run `baton profile` with the config, or give --hardware",)
    return ("drafts are not simulated: how often they are right is not known; give --draft-acceptance",)


def _pools(cluster: SimCluster) -> str:
    return " + ".join(f"{pool.num_workers} {pool.role}" for pool in cluster.pools)


def _summary(arrivals: Sequence[Arrival]) -> str:
    if len(arrivals) < 2 or arrivals[-1].at_s <= arrivals[0].at_s:
        return f"{len(arrivals)} requests at once"
    return f"{len(arrivals)} requests at {workload.mean_rate(arrivals):.2f}/s"
