"""One status of all models: what `baton status`, `up`, `keep` and the page ask the first controller for. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cluster.config.load import dump
from cluster.config.schema import ModelEntry
from cluster.contracts.served_model import ServedModel
from cluster.fleet.status import FleetStatus, ModelStatus
from cluster.planner.online.decision import NO_AUTOPILOT

SILENT = "its controller does not answer; Ray starts it again"


def merged(
    rows: Mapping[str, ServedModel],
    fleets: Mapping[str, FleetStatus | None],
    num_open: Mapping[str, int],
) -> FleetStatus:
    """
    Args:
        rows: By entry, at least one.
        fleets: By entry; None: its controller does not answer.
        num_open: Calls of each entry.
    """
    known = {entry: _named(entry, fleet) for entry, fleet in fleets.items() if fleet is not None}
    staying = [row for row in rows.values() if not row.leaving]
    shares = dict(_shares(staying))
    models = tuple(
        ModelStatus(
            entry=entry,
            served_name=row.served_name,
            model=row.config.model,
            weight=row.weight,
            file_weight=row.file_weight,
            share=shares.get(entry, 0.0),
            ready=entry in known and known[entry].ready,
            leaving=row.leaving,
            num_open=num_open.get(entry, 0),
            error="" if entry in known else SILENT,
            autopilot=known[entry].autopilot if entry in known else NO_AUTOPILOT,
        )
        for entry, row in rows.items()
    )
    return FleetStatus(
        ready=all(model.ready for model in models if not model.leaving),
        config=_config(staying),
        model_path=next((row.model_path for row in staying), ""),
        num_ingress_replicas=max((fleet.num_ingress_replicas for fleet in known.values()), default=0),
        pools=tuple(pool for fleet in known.values() for pool in fleet.pools),
        workers=tuple(worker for fleet in known.values() for worker in fleet.workers),
        refused=tuple(dict.fromkeys(line for fleet in known.values() for line in fleet.refused)),
        models=models,
        rollout=next((fleet.rollout for fleet in known.values() if fleet.rollout is not None), None),
        drained=tuple(dict.fromkeys(node_id for fleet in known.values() for node_id in fleet.drained)),
    )


def _named(entry: str, fleet: FleetStatus) -> FleetStatus:
    return replace(
        fleet,
        pools=tuple(
            replace(pool, model=entry, waits=f"models.{entry}.{pool.waits}" if pool.waits else "")
            for pool in fleet.pools
        ),
        workers=tuple(replace(worker, model=entry) for worker in fleet.workers),
        refused=tuple(f"models.{entry}: {line}" for line in fleet.refused),
    )


def _shares(rows: list[ServedModel]) -> Iterator[tuple[str, float]]:
    for row in rows:
        total = sum(other.weight for other in rows if other.served_name == row.served_name)
        yield row.entry, row.weight / total if total else 0.0


def _config(rows: list[ServedModel]) -> str:
    """As it was applied: YAML."""
    if not rows:
        return ""
    entries = {row.entry: ModelEntry(config=row.config, weight=row.file_weight) for row in rows}
    return dump(replace(rows[0].config, models=entries))
