"""What moving KV between two workers takes."""

from dataclasses import dataclass

from baton.errors import ConfigError
from cluster.contracts.latency import Parallelism
from cluster.planner.costs.devices import DeviceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """`latency_s` + bytes / `bandwidth`; see `cluster.contracts.latency.TransferModel`."""

    bandwidth: float  # bytes/s, all lanes together
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ConfigError(f"bandwidth {self.bandwidth:g} must be above 0 bytes/s")
        if not 0 <= self.latency_s < float("inf"):
            raise ConfigError(f"latency_s {self.latency_s:g} must be 0 s or more")

    def transfer_s(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bandwidth


def path_between(device: DeviceSpec, source: Parallelism, target: Parallelism, *, within_node: bool) -> Path:
    """One lane per device of the smaller worker, each of the device's own link or network card."""
    lanes = min(source.num_devices, target.num_devices)
    bandwidth = device.link_bandwidth if within_node else device.network_bandwidth
    return Path(
        bandwidth=lanes * bandwidth * device.efficiency.link,
        latency_s=device.link_latency_s if within_node else device.network_latency_s,
    )
