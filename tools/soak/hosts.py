"""The same on two hosts made of namespaces (root), between which the cable can be cut and mended: `--hosts`."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psutil

from tools.soak.cluster import SoakCluster
from tools.two_hosts import HEAD, HEAD_FROM_HERE, Hosts

CUT_S = 10.0  # longer than the 5 s after which workers are replaced, shorter than Ray's own patience

CONFIG = """
model: demo
dtype: float32
pools:
  prefill: {workers: 2}
  decode: {workers: 2}
engine: {memory: 24MiB, max_batched_tokens: 128}
kv: {lease_s: 5}
router: {disaggregate_over_tokens: 32, max_retries: 6, request_timeout_s: 120}
http: {host: 0.0.0.0}
"""


class HostsCluster(SoakCluster):
    """Ray is the soak's own there, Serve's proxy stands before the one ingress replica, on the head's host."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({**config, "http": {**config.get("http", {}), "host": "0.0.0.0", "replicas": 1}})
        self.hosts = Hosts()
        self._has_hosts = False
        self.env |= self.hosts.address
        self.prefix = tuple(self.hosts.prefix(self.hosts.head))

    @property
    def has_haproxy(self) -> bool:
        return False

    async def up(self, **changes: Any) -> None:
        if not self._has_hosts:
            self._has_hosts = True
            await asyncio.to_thread(self.hosts.start)
        await super().up(**changes)
        self.http, self.grpc = (told.replace(f"{HEAD}:", f"{HEAD_FROM_HERE}:") for told in (self.http, self.grpc))

    def own_processes(self) -> list[psutil.Process]:
        return [process for host in (self.hosts.head, self.hosts.other) for process in self.hosts.processes(host)]

    def remove(self) -> None:
        self.hosts.end()
        super().remove()
