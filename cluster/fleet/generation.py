"""What a worker was started with, as hashes short enough to be part of its name.

The name of its actor outlives the controller, so that one which comes back knows what to replace. Neither counts of
workers nor anything that workers are told while they run is part of it.
"""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from cluster.fleet.plan import FleetPlan
from workers.spec import Role

_MODEL, _FAMILY, _BUILD = 6, 6, 8  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Generation:
    """
    Attributes:
        model: Equal where a text that one worker has begun may be continued by the other.
        family: Equal where one may hand requests over to the other as well.
        build: Equal where nothing at all differs.
    """

    model: str
    family: str
    build: str

    @classmethod
    def of(cls, plan: FleetPlan, role: Role, index: int) -> "Generation":
        model = model_key(plan)
        config = plan.config
        handed_over = [config.engine.block_size, config.kv.transport, config.kv.dtype]
        family = _digest([model, config.device, *handed_over], _FAMILY)
        return cls(model=model, family=family, build=_digest([model, *_told(plan, role, index)], _BUILD))

    @classmethod
    def in_name(cls, incarnation: str) -> "Generation":
        """Of an incarnation that `incarnation` made."""
        family, build = _MODEL + _FAMILY, _MODEL + _FAMILY + _BUILD
        return cls(model=incarnation[:_MODEL], family=incarnation[_MODEL:family], build=incarnation[family:build])

    def incarnation(self) -> str:
        """A new one; no two are alike."""
        return f"{self.model}{self.family}{self.build}{secrets.token_hex(4)}"


def model_key(plan: FleetPlan) -> str:
    """Of what computes tokens: an ingress replica and the workers that it may ask have the same."""
    config = plan.config
    return _digest([config.model, plan.model_path, config.dtype, config.load_format], _MODEL)


def _told(plan: FleetPlan, role: Role, index: int) -> list[Any]:
    """What `plan.worker_spec` and the places of its ranks come from, of worker number `index` of a pool."""
    config, pool = plan.config, plan.pool(role)
    drafts = role is Role.DRAFT or config.drafts_locally  # whatever reads prompts may come to decode
    return [
        config.device,
        config.fake_step_s,
        asdict(config.engine),
        asdict(config.kv),
        asdict(config.speculation),
        asdict(pool.gang),
        pool.placement,
        dict(sorted(pool.resources.items())),
        dict(sorted(pool.labels.items())),
        pool.cores[index] if pool.cores is not None and index < len(pool.cores) else None,
        [config.pools.draft.model, plan.draft_path] if drafts else None,
        role is not Role.DRAFT and bool(config.pools.draft.workers),
    ]


def _digest(value: Any, num_digits: int) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:num_digits]
