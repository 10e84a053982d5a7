"""Which controller may act, should an old one linger beside a new one: the one that came last.

An epoch is a key of Ray's key-value store that is put only where it is not there yet, so that nobody shares one. Who
finds the next epoch taken has been followed, and changes nothing any more.
"""

from typing import Protocol

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_get, _internal_kv_put

_NAMESPACE = b"baton"


class Store(Protocol):
    """Of bytes by key, shared by all controllers."""

    def get(self, key: str) -> bytes | None: ...

    def put_new(self, key: str, value: bytes) -> bool:
        """False, and nothing changes: it is there already."""
        ...

    def put(self, key: str, value: bytes) -> None: ...

    def has(self, key: str) -> bool: ...

    def delete(self, key: str) -> None: ...


class RayStore:
    """Ray's key-value store."""

    def get(self, key: str) -> bytes | None:
        value: bytes | None = _internal_kv_get(key.encode(), namespace=_NAMESPACE)
        return value

    def put_new(self, key: str, value: bytes) -> bool:
        return not _internal_kv_put(key.encode(), value, overwrite=False, namespace=_NAMESPACE)

    def put(self, key: str, value: bytes) -> None:
        _internal_kv_put(key.encode(), value, overwrite=True, namespace=_NAMESPACE)

    def has(self, key: str) -> bool:
        return bool(_internal_kv_exists(key.encode(), namespace=_NAMESPACE))

    def delete(self, key: str) -> None:
        _internal_kv_del(key.encode(), namespace=_NAMESPACE)


class Lease:
    """Taken when it is made, from whoever held it."""

    def __init__(self, name: str, store: Store) -> None:
        self._name, self._store = name, store
        self.epoch = self._claim()

    @property
    def holds(self) -> bool:
        """Whether nobody came after. To be asked before each act."""
        last = self._store.get(self._name)
        return not self._store.has(self._key(self.epoch + 1)) and last is not None and int(last) <= self.epoch

    def _claim(self) -> int:
        """One more than the last one; the store says who was first where several try."""
        last = self._store.get(self._name)
        epoch = int(last) + 1 if last else 1
        while not self._store.put_new(self._key(epoch), b"1"):
            epoch += 1
        self._store.put(self._name, str(epoch).encode())
        self._store.delete(self._key(epoch - 2))  # whoever followed it is told by the last epoch
        return epoch

    def _key(self, epoch: int) -> str:
        return f"{self._name}.{epoch}"
