"""A change of the fleet that is under way: what was wanted before it. Kept beside the plan in Ray's key-value store, so
that a controller which comes back goes on with it.
"""

import json
from dataclasses import dataclass

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from cluster.fleet import plan
from cluster.fleet.plan import FleetPlan

_KV_NAMESPACE = b"baton"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    Attributes:
        before: What the fleet was when it was whole the last time.
        why: In a few words, for events.
        halted: Why nothing more is replaced; empty: it goes on.
        holds_old: Workers of `before` have another model, and those who ask for it have not turned to the new one yet.
    """

    before: FleetPlan
    why: str
    halted: str = ""
    holds_old: bool = False


def save(key: str, change: Change | None) -> None:
    if change is None:
        _internal_kv_del(_name(key), namespace=_KV_NAMESPACE)
        return
    fields = {"why": change.why, "halted": change.halted, "holds_old": change.holds_old}
    text = json.dumps({**fields, "before": plan.to_text(change.before)})
    _internal_kv_put(_name(key), text.encode(), overwrite=True, namespace=_KV_NAMESPACE)


def load_saved(key: str) -> Change | None:
    raw = _internal_kv_get(_name(key), namespace=_KV_NAMESPACE)
    if not raw:
        return None
    saved = json.loads(raw)
    return Change(**{**saved, "before": plan.from_text(saved["before"])})


def _name(key: str) -> bytes:
    return f"{key}/change".encode()
