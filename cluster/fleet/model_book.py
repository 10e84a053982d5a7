"""The first controller's table of models: kept in Ray's key-value store, so that it outlives the controller, and what
ingress replicas say of it: which version they follow, and how many calls each entry has open there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from baton.errors import ConfigError
from cluster.config.entries import check_weight
from cluster.config.load import dump, loads
from cluster.contracts.served_model import ModelTable, ServedModel
from cluster.fleet.ingresses import INGRESS_TIMEOUT_S

_KV_NAMESPACE = b"baton-models"


@dataclass(slots=True)
class _Replica:
    heard_s: float
    version: int
    num_open: Mapping[str, int] = field(default_factory=dict)  # by entry


class ModelBook:
    """For one event loop. `key`: of the store."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._replicas: dict[str, _Replica] = {}
        self.table = _load(key) or ModelTable(version=1)

    def put(self, models: Sequence[ServedModel]) -> None:
        """What is served from now on. Entries that are gone stay as leaving ones, until `forget`.

        A weight that was set while the cluster ran stays, unless the config's own is another than before.
        """
        entries = {model.entry for model in models}
        before = {model.entry: model for model in self.table.models}
        rows = [_with_weight(model, before.get(model.entry)) for model in models]
        taken_over = {model.controller for model in models}
        left = [row for row in self.table.models if row.entry not in entries and row.controller not in taken_over]
        gone = [replace(row, leaving=True) for row in left]
        self._take([*_alive(rows), *gone])

    def weigh(self, served_name: str, weights: Mapping[str, float] | None) -> None:
        """
        Args:
            weights: Of versions of one model, others stay as they are; None: those of the config.
        Raises: ConfigError: no such model or version, a bad weight, or none is left that answers.
        """
        versions = {row.entry: row for row in self.table.staying() if row.served_name == served_name}
        if not versions:
            known = ", ".join(dict.fromkeys(row.served_name for row in self.table.staying()))
            raise ConfigError(f"{served_name}: is not served; served here: {known or 'nothing'}")
        if weights is None:
            weights = {entry: row.file_weight for entry, row in versions.items()}
        for entry, weight in weights.items():
            if entry not in versions:
                raise ConfigError(f"{entry}: is no version of {served_name}; its versions: {', '.join(versions)}")
            versions[entry] = replace(versions[entry], weight=check_weight(weight, f"{served_name} {entry}"))
        if not any(row.weight for row in versions.values()):
            raise ConfigError(f"{served_name}: every weight is 0, nobody would answer; give one version more than 0")
        self._take([versions.get(row.entry, row) if not row.leaving else row for row in self.table.models])

    def forget(self, entry: str) -> None:
        """One that was leaving, whose workers have ended."""
        self._take([row for row in self.table.models if row.entry != entry or not row.leaving])

    def clear(self) -> None:
        _internal_kv_del(self._key.encode(), namespace=_KV_NAMESPACE)
        self.table = ModelTable(version=self.table.version + 1)

    def hear(self, replica: str, version: int, num_open: Mapping[str, int], now_s: float) -> ModelTable | None:
        """What a replica says of itself. Returns: the table, where it has another."""
        self._replicas[replica] = _Replica(now_s, version, num_open)
        return self.table if version != self.table.version else None

    def num_open(self, entry: str, now_s: float) -> int:
        """Calls that ingress replicas have open."""
        return sum(replica.num_open.get(entry, 0) for replica in self._live(now_s))

    def not_served(self, entries: Sequence[str], now_s: float) -> list[str]:
        """Those that some ingress replica does not serve, or all while none has asked for the table."""
        live = self._live(now_s)
        return [entry for entry in entries if not live or any(entry not in replica.num_open for replica in live)]

    def is_followed(self, now_s: float) -> bool:
        """Whether every replica has this table."""
        return all(replica.version == self.table.version for replica in self._live(now_s))

    def _live(self, now_s: float) -> list[_Replica]:
        self._replicas = {name: one for name, one in self._replicas.items() if now_s - one.heard_s < INGRESS_TIMEOUT_S}
        return list(self._replicas.values())

    def _take(self, models: Sequence[ServedModel]) -> None:
        self.table = ModelTable(version=self.table.version + 1, models=tuple(models))
        text = json.dumps({"version": self.table.version, "models": [_plain(row) for row in models]})
        _internal_kv_put(self._key.encode(), text.encode(), overwrite=True, namespace=_KV_NAMESPACE)


def _with_weight(new: ServedModel, old: ServedModel | None) -> ServedModel:
    if old is None or old.leaving or old.file_weight != new.file_weight:
        return replace(new, weight=new.file_weight)
    return replace(new, weight=old.weight)


def _alive(rows: Sequence[ServedModel]) -> list[ServedModel]:
    """With the config's weights for a served name of which no other version is left that answers."""
    answering = {row.served_name for row in rows if row.weight}
    return [row if row.served_name in answering else replace(row, weight=row.file_weight) for row in rows]


def _plain(row: ServedModel) -> dict[str, Any]:
    return {**asdict(replace(row, config=None)), "config": dump(row.config)}  # type: ignore[arg-type]


def _load(key: str) -> ModelTable | None:
    raw = _internal_kv_get(key.encode(), namespace=_KV_NAMESPACE)
    if not raw:
        return None
    saved = json.loads(raw)
    rows = [ServedModel(**{**row, "config": loads(row["config"])}) for row in saved["models"]]
    return ModelTable(version=saved["version"], models=tuple(rows))
