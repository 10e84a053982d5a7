"""What the running ingress was told, as a hash in Ray's key-value store: whether it has to be told anew."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

_KV_NAMESPACE = b"baton"


def told_of(spec: Any, avoid: Collection[str] = ()) -> str:
    """Of an `IngressSpec`, all that a replica is told, and where there are none."""
    told = json.dumps([asdict(spec), sorted(avoid)], default=str, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def deployed(namespace: str) -> str:
    """Empty: nothing was deployed, or it did not come up."""
    from ray.experimental.internal_kv import _internal_kv_get

    return (_internal_kv_get(_name(namespace), namespace=_KV_NAMESPACE) or b"").decode()


def note_deployed(namespace: str, told: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_name(namespace), told.encode(), overwrite=True, namespace=_KV_NAMESPACE)


def _name(namespace: str) -> bytes:
    return f"{namespace}/ingress".encode()
