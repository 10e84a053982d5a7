"""Where each worker tells its own metrics, as Prometheus's `http_sd_configs` asks for it."""

from collections.abc import Sequence
from typing import Any

from cluster.ingress.telemetry.router_metrics import told_by
from cluster.router.workers import WorkerView


def scrape_targets(views: Sequence[WorkerView]) -> list[dict[str, Any]]:
    """Workers that do not answer too: that they are down shall be seen. `__meta_` labels are for relabelling."""
    return [
        {
            "targets": [one.state.metrics_address],
            "labels": {
                "__meta_baton_worker": one.worker_id,
                "__meta_baton_role": one.labels[1],
                "__meta_baton_model": one.model,
                "__meta_baton_incarnation": one.state.incarnation,
            },
        }
        for one in told_by(views)
        if one.state.metrics_address
    ]
