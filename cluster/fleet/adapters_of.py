"""Which LoRA adapters the workers are to have after a change of the config."""

from pathlib import Path

from cluster.config.schema import BatonConfig
from cluster.fleet.plan import FleetPlan
from cluster.models.adapters import find_adapters
from workers.adapters.adapter import AdapterSpec


def adapters_of(config: BatonConfig, folder: Path, before: FleetPlan | None) -> tuple[AdapterSpec, ...]:
    """The config's, and those that were loaded since the cluster started, where the model is the same.

    Raises: ConfigError: one of the config's cannot be used.
    """
    if before is None or before.model_path != str(folder):
        return find_adapters(config, folder)
    if before.config.adapters == config.adapters:
        return before.adapters
    found = find_adapters(config, folder)
    names = {adapter.name for adapter in found} | set(before.config.adapters)
    return (*found, *(adapter for adapter in before.adapters if adapter.name not in names))
