"""What the controller was asked for, with every `auto` resolved: kept in Ray's key-value store, so that it outlives
the controller; and the worker specs that follow from it.
"""

import json
from dataclasses import dataclass, replace

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from baton.errors import ConfigError
from cluster.config.load import dump, flatten, loads
from cluster.config.schema import BatonConfig, PoolConfig
from workers.spec import SERVING_ROLES, GangSpec, Role, WorkerSpec

_KV_NAMESPACE = b"baton"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """`config` has no `auto` left in model, dtype and device; `model_path` is a folder on the head node."""

    config: BatonConfig
    model_path: str

    @property
    def desired(self) -> dict[Role, int]:
        pools = self.config.pools
        return {role: getattr(pools, role.value).workers for role in SERVING_ROLES}

    @property
    def num_ranks(self) -> int:
        """Of all workers that are wanted."""
        return sum(count * self.pool(role).num_ranks for role, count in self.desired.items())

    def pool(self, role: Role) -> PoolConfig:
        pool: PoolConfig = getattr(self.config.pools, role.value)
        return pool


def check_change(old: FleetPlan, new: FleetPlan) -> None:
    """Raises: ConfigError: `new` changes more than a running cluster can follow: the counts of its pools' workers."""
    before, after = flatten(old.config), flatten(new.config)
    changed = [key for key in before if before[key] != after[key] and not _may_change(key)]
    if changed:
        key = changed[0]
        more = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise ConfigError(
            f"{key}: {before[key]!r} cannot become {after[key]!r} while the cluster runs{more}; run `baton down` first"
        )
    modes = [bool(plan.config.pools.mixed.workers) for plan in (old, new)]
    if modes[0] is not modes[1]:
        raise ConfigError("pools: mixed and separate pools cannot change places on a running cluster; run `baton down`")


def _may_change(key: str) -> bool:
    return key.startswith("pools.") and key.endswith((".workers", ".cores"))


def save(key: str, plan: FleetPlan) -> None:
    text = json.dumps({"config": dump(plan.config), "model_path": plan.model_path})
    _internal_kv_put(key.encode(), text.encode(), overwrite=True, namespace=_KV_NAMESPACE)


def load_saved(key: str) -> FleetPlan | None:
    raw = _internal_kv_get(key.encode(), namespace=_KV_NAMESPACE)
    if not raw:
        return None
    saved = json.loads(raw)
    return FleetPlan(config=loads(saved["config"]), model_path=saved["model_path"])


def forget(key: str) -> None:
    _internal_kv_del(key.encode(), namespace=_KV_NAMESPACE)


def resolve(config: BatonConfig, *, device: str, dtype: str, model_path: str) -> FleetPlan:
    resolved = replace(config, device=device, dtype=dtype, served_name=config.shown_name)
    return FleetPlan(config=resolved, model_path=model_path)


def worker_spec(
    plan: FleetPlan,
    worker_id: str,
    role: Role,
    *,
    cores: tuple[int, ...],
    host: str,
    secret: str,
    rank: int = 0,
    shares_device: bool = False,
) -> WorkerSpec:
    """Of one rank, with its own cores and its own node's address.

    Args:
        shares_device: There are fewer GPUs than ranks.
    """
    config, pool = plan.config, plan.pool(role)
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model=plan.model_path,
        model_name=config.model,
        served_name=config.served_name,
        dtype=config.dtype,
        device=config.device,
        load_format="auto" if config.load_format == "fake" else config.load_format,
        engine=config.engine,
        kv=config.kv,
        speculation=config.speculation,
        gang=GangSpec(
            tensor_parallel=pool.tensor_parallel,
            sequence_parallel=pool.sequence_parallel,
            rank=rank,
            shares_device=shares_device,
        ),
        secret=secret,
        cores=cores,
        num_threads=len(cores),
        host=host,
        fake=config.load_format == "fake",
        fake_step_s=config.fake_step_s,
    )
