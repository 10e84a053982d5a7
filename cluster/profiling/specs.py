"""The workers that a config asks for on this machine, as the controller would tell them, for processes without Ray."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config.schema import BatonConfig
from cluster.fleet.cores import share, split
from cluster.fleet.nodes import resolve_dtype
from cluster.fleet.plan import FleetPlan, resolve, worker_spec
from cluster.host.cpus import usable
from cluster.models.find import Silent, resolve_config
from workers.model.registry import resolve_model
from workers.spec import Role, WorkerSpec


def resolved(config: BatonConfig) -> FleetPlan:
    """No `auto` is left in device and dtype.

    Raises:
        ConfigError: The model is not there.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    config = resolve_config(config, Silent())
    folder = str(resolve_model(config.model))
    return resolve(config, device=device, dtype=resolve_dtype(config.dtype, device), model_path=folder)


def worker_specs(config: BatonConfig, *, secret: str = "s3cret") -> list[WorkerSpec]:
    """Every rank of every worker that takes requests, none of which drafts with a model: there is no path to one. Cores
    are shared out as by the controller on one node, draft workers counted."""
    plan = resolved(config)
    specs: list[WorkerSpec] = []
    for role in (Role.PREFILL, Role.DECODE, Role.MIXED):
        for index in range(plan.desired[role]):
            cores = _cores(plan, role, index, [spec.cores for spec in specs])
            specs += [
                worker_spec(plan, f"{role}-{index}", role, cores=mine, host="127.0.0.1", secret=secret, rank=rank)
                for rank, mine in enumerate(split(cores, plan.pool(role).num_ranks))
            ]
    return specs


def available_cores() -> tuple[int, ...]:
    return tuple(usable().cores)


def _cores(plan: FleetPlan, role: Role, index: int, taken: Sequence[Sequence[int]]) -> tuple[int, ...]:
    wanted = plan.pool(role).cores
    if wanted is not None:
        return wanted[index]
    return share(available_cores(), taken, plan.num_ranks, plan.pool(role).num_ranks)
