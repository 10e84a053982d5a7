"""The view of an ingress replica that stands by itself: no controller, no other replicas."""

from cluster.config.schema import LimitsConfig, SLOConfig
from cluster.contracts.slo import slo_of
from cluster.ingress.cluster_api.shown_fleets import ShownFleets
from cluster.ingress.cluster_api.view import ClusterView
from cluster.ingress.services import Services


def max_viewers(limits: LimitsConfig) -> int:
    """Half of all connections: those who only look leave room for those who ask."""
    return max(1, limits.max_connections // 2)


def own_view(services: Services, limits: LimitsConfig) -> ClusterView:
    view = ClusterView(ShownFleets(services), slo_of(SLOConfig()), max_viewers=max_viewers(limits))
    services.on_finished.append(view.window.tell)
    return view
