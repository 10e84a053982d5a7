"""What one replica does with the visits it has had: remembers their calls, logs them, sends their spans."""

import sys
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter

from cluster.config.schema import LoggingConfig, TracingConfig
from cluster.ingress.tracing.access import log_access
from cluster.ingress.tracing.export import Export, Sender
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.visit import Visits
from cluster.logs.queued import QueuedHandler
from cluster.logs.setup import set_up_queued
from workers.telemetry.described import counter

LINES_DROPPED = counter("baton_log_lines_dropped_total", "lines", "Of the log, that a slow disk had no room for")
TRACES_DROPPED = counter("baton_traces_dropped_total", "requests", "Sampled, whose spans no collector has taken")
DESCRIBED = (LINES_DROPPED, TRACES_DROPPED)


class Observing:
    """Owns the process's log from when it is made until `close`.

    Args:
        replica: This one's name.
        stream: Of the log; None: the process's own stderr. Serve puts another in the place of `sys.stderr`, which
            would write each line into a line of its own log.
    """

    def __init__(
        self, tracing: TracingConfig, logging: LoggingConfig, replica: str, stream: TextIO | None = None
    ) -> None:
        self.ring = Ring(tracing.keep)
        self.visits = Visits(tracing.sample_ratio if tracing.otlp_endpoint else None)
        self._endpoint = tracing.otlp_endpoint
        self._replica = replica
        self._has_access_log = logging.access
        self._export: Export | None = None
        self._log: QueuedHandler = set_up_queued(logging.format, stream or sys.__stderr__ or sys.stderr)

    def start(self, registry: CollectorRegistry) -> None:
        """Counts what is lost in `registry`, from now on."""
        lines = Counter(LINES_DROPPED.name, LINES_DROPPED.text, registry=registry)
        self._log.dropped = lines.inc
        requests = Counter(TRACES_DROPPED.name, TRACES_DROPPED.text, registry=registry)
        if self._has_access_log:
            self.visits.on_left.append(log_access)
        if self._endpoint:
            self._export = Export(self._sender, requests.inc)
            self.visits.on_left.append(self._export.take)

    def close(self) -> None:
        """Sends and writes what waits, within a few seconds; blocks."""
        if self._export is not None:
            self._export.close()
        self._log.close()

    def _sender(self) -> Sender:
        from cluster.ingress.tracing.otlp import OTLPSender

        return OTLPSender(self._endpoint, self._replica)
