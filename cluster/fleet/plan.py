"""What the controller was asked for, with every `auto` resolved: kept in Ray's key-value store, so that it outlives
the controller; and the worker specs that follow from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from baton.errors import ConfigError
from cluster.config.checks import check_kv_dtype
from cluster.config.effects import Effect, effect_of
from cluster.config.load import dump, flatten, loads
from cluster.config.schema import AnyPool, BatonConfig
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.fleet.nodes import Node, gpu_share
from cluster.fleet.probe import Asked
from cluster.fleet.tick import slot_of
from cluster.fleet.tick import worker_id as slot_id
from cluster.models.draft_memory import draft_memory_bytes
from workers.adapters.adapter import AdapterSpec
from workers.model.registry import is_path
from workers.spec import EngineSpec, Role, WorkerSpec

_KV_NAMESPACE = b"baton"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """`config` has no `auto` left in model, dtype and device; paths are folders on the head node."""

    config: BatonConfig
    model_path: str
    draft_path: str = ""  # of the model that drafts; empty: none does
    adapters: tuple[AdapterSpec, ...] = ()  # LoRA, that every worker has: the config's, and what was loaded since
    drained: tuple[str, ...] = ()  # ids of nodes where no worker is to be
    tuning: Tuning = UNTUNED  # limits that the autopilot set
    roles: Mapping[str, Role] = field(default_factory=dict)  # by slot, of those that have not their pool's

    @property
    def desired(self) -> dict[Role, int]:
        pools = self.config.pools
        return {role: getattr(pools, role.value).workers for role in Role}

    @property
    def desired_by_role(self) -> dict[Role, int]:
        """As `desired`, by what the workers do."""
        counts = dict.fromkeys(Role, 0)
        for pool, count in self.desired.items():
            for index in range(count):
                counts[self.role_of(slot_id(pool, index), pool)] += 1
        return counts

    def role_of(self, name: str, pool: Role) -> Role:
        """That a worker of a pool has, or shall have; on whichever side of its slot it is."""
        return self.roles.get(slot_of(name), pool)

    @property
    def num_ranks(self) -> int:
        """Of all workers that are wanted."""
        return sum(count * self.pool(role).num_ranks for role, count in self.desired.items())

    def pool(self, role: Role) -> AnyPool:
        pool: AnyPool = getattr(self.config.pools, role.value)
        return pool

    def gpus(self, role: Role, nodes: Sequence[Node], num_beside: int = 0) -> float:
        """That each rank takes: a whole one on nodes that its pool asks for, which may come yet; else its share.

        Args:
            num_beside: Ranks of other models.
        """
        if self.config.device != "cuda":
            return 0.0
        return 1.0 if self.pool(role).is_choosy else gpu_share(nodes, self.num_ranks + num_beside)

    @property
    def asked(self) -> Asked:
        """What every worker needs of its node."""
        fake = self.config.load_format == "fake"
        models = () if fake else (self.config.model, self.config.pools.draft.model)
        return Asked(
            paths=(
                *(model for model in models if model and is_path(model)),
                *(() if fake else (adapter.folder for adapter in self.adapters)),
            ),
            torch=not fake,
            cuda=self.config.device == "cuda" and not fake,
        )

    def engine(self, role: Role) -> EngineSpec:
        """A draft worker has memory for its own model's KV of what the workers that decode can hold, and the limits
        of its own model: longer texts go on without its guesses.
        """
        if role is not Role.DRAFT:
            return self.config.engine
        return replace(
            self.config.engine,
            memory_bytes=draft_memory_bytes(self.config, Path(self.model_path), Path(self.draft_path)),
            max_model_len=None,
            state_cache_spacing=None,
        )


class NeedsDownError(ConfigError):
    """A config by itself good, that the running cluster cannot become."""


def check_change(old: FleetPlan, new: FleetPlan) -> None:
    """Raises: NeedsDownError: `new` changes what was settled when the cluster's ports were opened."""
    before, after = flatten(old.config), flatten(new.config)
    changed = [key for key in before if before[key] != after[key] and effect_of(key) is Effect.DOWN]
    if changed:
        key = changed[0]
        more = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise NeedsDownError(
            f"{key}: {before[key]!r} cannot become {after[key]!r} while the cluster runs{more}; run `baton down` first"
        )


def with_workers(plan: FleetPlan, counts: Mapping[Role, int]) -> FleetPlan:
    """With so many workers in those pools; slots that there are no more have no role."""
    pools = plan.config.pools
    changed = {role.value: replace(getattr(pools, role.value), workers=count) for role, count in counts.items()}
    new = replace(plan, config=replace(plan.config, pools=replace(pools, **changed)))
    slots = {slot_id(pool, index) for pool, count in new.desired.items() for index in range(count)}
    return replace(new, roles={name: role for name, role in plan.roles.items() if name in slots})


def save(key: str, plan: FleetPlan) -> None:
    _internal_kv_put(key.encode(), to_text(plan).encode(), overwrite=True, namespace=_KV_NAMESPACE)


def load_saved(key: str) -> FleetPlan | None:
    raw = _internal_kv_get(key.encode(), namespace=_KV_NAMESPACE)
    return from_text(raw.decode()) if raw else None


def to_text(plan: FleetPlan) -> str:
    fields = {"config": dump(plan.config), "model_path": plan.model_path, "draft_path": plan.draft_path}
    adapters, tuned = [asdict(adapter) for adapter in plan.adapters], {"tuning": asdict(plan.tuning)}
    return json.dumps({**fields, "adapters": adapters, "drained": plan.drained, "roles": dict(plan.roles), **tuned})


def from_text(text: str) -> FleetPlan:
    saved = json.loads(text)
    return FleetPlan(
        config=loads(saved["config"]),
        model_path=saved["model_path"],
        draft_path=saved["draft_path"],
        roles={name: Role(role) for name, role in saved["roles"].items()},
        adapters=tuple(AdapterSpec(**adapter) for adapter in saved["adapters"]),
        drained=tuple(saved["drained"]),
        tuning=Tuning(**saved["tuning"]),
    )


def forget(key: str) -> None:
    _internal_kv_del(key.encode(), namespace=_KV_NAMESPACE)


def resolve(
    config: BatonConfig,
    *,
    device: str,
    dtype: str,
    model_path: str,
    draft_path: str = "",
    adapters: tuple[AdapterSpec, ...] = (),
    drained: tuple[str, ...] = (),
) -> FleetPlan:
    check_kv_dtype(config, device)
    resolved = replace(config, device=device, dtype=dtype, served_name=config.shown_name)
    return FleetPlan(config=resolved, model_path=model_path, draft_path=draft_path, adapters=adapters, drained=drained)


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
    pinned: bool = True,
) -> WorkerSpec:
    """Of one rank, with its own cores and its own node's address.

    Args:
        role: Its pool's.
        pinned: To its cores; else it has so many threads, wherever they run.
        shares_device: There are fewer GPUs than ranks.
    """
    config, draft = plan.config, plan.config.pools.draft
    is_draft = role is Role.DRAFT
    drafts_itself = not is_draft and config.drafts_locally  # as soon as it decodes
    return WorkerSpec(
        worker_id=worker_id,
        role=plan.role_of(worker_id, role),
        model=plan.draft_path if is_draft else plan.model_path,
        model_name=draft.model if is_draft else config.model,
        served_name=config.served_name,
        dtype=config.dtype,
        device=config.device,
        load_format="auto" if config.load_format == "fake" else config.load_format,
        engine=plan.engine(role),
        kv=config.kv,
        speculation=config.speculation,
        draft_model=plan.draft_path if drafts_itself else "",
        draft_model_name=draft.model if drafts_itself else "",
        adapters=() if is_draft else plan.adapters,
        has_draft_workers=not is_draft and bool(draft.workers),
        gang=replace(plan.pool(role).gang, rank=rank, shares_device=shares_device),
        secret=secret,
        cores=cores if pinned else (),
        num_threads=len(cores),
        host=host,
        public_metrics=config.auth.public_metrics,
        fake=config.load_format == "fake",
        fake_step_s=config.fake_step_s,
    )
