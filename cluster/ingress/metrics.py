"""What one ingress replica counts, and what it knows of the workers, for Prometheus.

Each replica counts its own requests. With several of them, the one that a scrape reaches asks the others, and each
one's samples carry its name as `replica`; what is known of the workers is the asked one's, as they told it last: no
worker is asked, so none is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric

from cluster.config.schema import SLOConfig
from cluster.contracts.finished import FinishedRequest
from cluster.contracts.slo import SLO, slo_of
from cluster.ingress.telemetry import vllm_names
from cluster.ingress.telemetry.request_metrics import ModelMetrics, RequestMetrics
from cluster.ingress.telemetry.router_metrics import fleet_families, router_families, told_by
from cluster.ingress.telemetry.slo_metrics import SLOMetrics
from cluster.ingress.telemetry.targets import scrape_targets
from cluster.router.counters import Counters
from cluster.router.workers import WorkerView
from workers.telemetry.described import gauge
from workers.telemetry.exposition import text

Families = list[Metric]
Gather = Callable[[], Awaitable[Mapping[str, Families]]]  # replica -> what it counted, the asking one included
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
INFO = gauge("baton_info", "1", "Of this server", "version")


class Metrics:
    """Of one event loop; one per replica, never the process-wide registry.

    Args:
        states: The workers of all models, as they are known here.
        gather: Asks all replicas; None: this is the only one.
        counters: Of each model's router; None: there is none.
        slo: None: the config's defaults.
        vllm_names: The common ones under vLLM's names too.
    """

    def __init__(
        self,
        states: Callable[[], Sequence[WorkerView]],
        gather: Gather | None = None,
        *,
        counters: Callable[[], Mapping[str, Counters]] = dict,
        slo: SLO | None = None,
        vllm_names: bool = False,
    ) -> None:
        self.registry = CollectorRegistry()  # of who counts by the library: keys, and this process
        ProcessCollector(registry=self.registry)
        self.slo = SLOMetrics(slo or slo_of(SLOConfig()))
        self._counted = RequestMetrics()
        self.requests, self.open, self.waiting = self._counted.requests, self._counted.open, self._counted.waiting
        self._states = states
        self._gather = gather
        self._counters = counters
        self._has_vllm_names = vllm_names

    def of(self, model: str) -> ModelMetrics:
        """What an open call counts with."""
        return self._counted.of(model)

    def take(self, finished: FinishedRequest, num_unfinished: int) -> None:
        """Counts a call that ended. `num_unfinished`: its choices that did not come to their end."""
        self._counted.take(finished, num_unfinished)
        self.slo.take(finished)

    def families(self) -> Families:
        """What this replica counted."""
        counted = list(self._counted.collect())
        named = list(vllm_names.request_families(counted)) if self._has_vllm_names else []
        routers = router_families(self._counters())
        info = INFO.family([((version("baton-serve"),), 1.0)])
        return [info, *counted, *self.slo.collect(), *routers, *named, *self.registry.collect()]

    def targets(self) -> list[dict[str, Any]]:
        """Where workers tell their own; see `scrape_targets`."""
        return scrape_targets(self._states())

    async def text(self) -> bytes:
        """Of all replicas. Written on a thread: a thousand workers are much text, and streams go on."""
        families = self.families() if self._gather is None else _merged(await self._gather())
        return await asyncio.to_thread(self._text, families, self._states())

    def _text(self, families: Families, views: Sequence[WorkerView]) -> bytes:
        named = list(vllm_names.worker_families(told_by(views))) if self._has_vllm_names else []
        return text([*families, *fleet_families(views), *named])


def _merged(by_replica: Mapping[str, Families]) -> Families:
    merged: dict[str, Metric] = {}
    for replica, families in sorted(by_replica.items()):
        for family in families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    return list(merged.values())
