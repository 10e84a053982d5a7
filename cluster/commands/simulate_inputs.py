"""What `baton simulate` is given, read and checked: the cluster, its costs, the requests, the faults."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from baton.errors import ConfigError
from cluster.commands.arrivals import read_requests
from cluster.commands.cost_options import CostOptions
from cluster.commands.load_options import LoadOptions
from cluster.commands.simulate_costs import from_hardware, from_profile
from cluster.commands.simulate_options import NUM_REQUESTS, RunOptions
from cluster.config import BatonConfig
from cluster.config_load import to_tree
from cluster.planner import workload
from cluster.planner.slo import SLO
from cluster.simulator.contract import Arrival, Fault, SimCluster
from cluster.simulator.faults import check_targets, parse_faults
from cluster.simulator.from_config import worker_roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as given."""

    costs: CostOptions
    model: str | None
    load: LoadOptions
    run: RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    cluster: SimCluster
    arrivals: Sequence[Arrival]
    faults: Sequence[Fault]
    slo: SLO
    title: str
    notes: Sequence[str]
    about: dict[str, Any]  # for the result's file


def read_inputs(config: BatonConfig, asked: Asked) -> Inputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, a request or fault that cannot be.
    """
    _check(asked)
    if asked.costs.profile is not None:
        cluster, source = from_profile(config, asked.costs.profile)
    else:
        assert asked.costs.hardware is not None, "CostOptions.check asks for one of them"
        config = replace(config, model=asked.model or config.model)
        cluster, source = from_hardware(config, asked.costs.hardware)
    requests = read_requests(
        asked.load,
        num_synthetic=asked.run.num_requests or NUM_REQUESTS,
        seed=asked.run.seed,
        model=config.model,
        max_model_len=cluster.max_model_len,
        block_size=cluster.engine.block_size,
    )
    slo = SLO(ttft_s=config.slo.ttft_ms / 1e3, tpot_s=config.slo.tpot_ms / 1e3, attainment=config.slo.attainment)
    given = asdict(asked.load) | asdict(asked.run)
    return Inputs(
        cluster=cluster,
        arrivals=requests.arrivals,
        faults=_faults(asked.run.faults, config, requests.arrivals),
        slo=slo,
        title=f"{config.model} ({source}): {_pools(cluster)}, {_summary(requests.arrivals)}",
        notes=requests.notes,
        about={
            "model": config.model,
            "costs": source,
            "config": to_tree(config),
            "load": given | {"trace": str(asked.load.trace) if asked.load.trace else None},
        },
    )


def _check(asked: Asked) -> None:
    asked.costs.check()
    asked.load.check()
    asked.run.check(asked.load)
    if asked.costs.profile is not None and asked.model is not None:
        raise ConfigError(
            f"--model {asked.model}: a profile is of its own model; leave --model out, or give --hardware"
        )


def _faults(text: str, config: BatonConfig, arrivals: Sequence[Arrival]) -> list[Fault]:
    faults = parse_faults(text)
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
