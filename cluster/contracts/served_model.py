"""The table of models: what is served by whose workers, and how requests are shared among versions. The first
controller keeps it, ingress replicas follow it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.config.schema import BatonConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of a config's `models`; of a config without them, all that there is."""

    entry: str  # empty: of a config without `models`
    controller: str  # name of the actor that keeps its workers
    config: BatonConfig  # of its fleet, nothing left to `auto`
    model_path: str  # a folder of the head node
    workers_model: str = ""  # of those workers whose tokens are this model's, as in `WorkerEntry`; empty: all
    weight: float = 1.0  # of now, among versions of one served name
    file_weight: float = 1.0  # as the config that was applied says
    leaving: bool = False  # takes no requests any more; its workers finish what runs

    @property
    def served_name(self) -> str:
        """What clients call it, and other versions of it."""
        return self.config.shown_name

    def is_as(self, other: "ServedModel") -> bool:
        """Whether what serves this serves the other too: weights, and what workers alone are told, aside."""
        mine, its = (
            (row.controller, _of_ingress(row.config), row.model_path, row.workers_model) for row in (self, other)
        )
        return mine == its

    @property
    def alias(self) -> str:
        """What clients call this version alone; empty: there are no versions."""
        return f"{self.served_name}@{self.entry}" if self.entry else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """Invariant: entries differ; of each served name with an entry that stays, one has a weight above 0."""

    version: int  # grows with each change
    models: Sequence[ServedModel] = ()

    def staying(self) -> tuple[ServedModel, ...]:
        return tuple(model for model in self.models if not model.leaving)


def _of_ingress(config: BatonConfig) -> BatonConfig:
    """The same where a replica that runs need not be told anything new; for what all models share, others start."""
    plain = BatonConfig()
    return replace(
        config,
        http=plain.http,
        grpc=plain.grpc,
        tls=plain.tls,
        auth=plain.auth,
        limits=plain.limits,
        structured=plain.structured,
        tracing=plain.tracing,
        logging=plain.logging,
        metrics=plain.metrics,
        pools=plain.pools,
        engine=plain.engine,
        kv=plain.kv,
        speculation=plain.speculation,
        planner=plain.planner,
        adapters=plain.adapters,
    )


def worker_prefix(entry: str, *, is_first: bool) -> str:
    """Before the ids of an entry's workers, which are unique in the cluster by it: `v2.decode-0`.

    Args:
        is_first: The first controller keeps them: its workers' ids are what they are in a cluster of one model.
    """
    return "" if is_first or not entry else f"{entry}."
