"""Deploys the ingress of the running cluster."""

from collections.abc import Collection, Sequence

from cluster.config.schema import BatonConfig
from cluster.contracts.served_model import ServedModel
from cluster.host import state


def deploy_ingress(config: BatonConfig, models: Sequence[ServedModel], *, avoid: Collection[str]) -> None:
    """See `cluster.ingress.app.deploy`."""
    from cluster.contracts.events import EventKind
    from cluster.fleet.client import CONTROLLER_NAME, NAMESPACE, ControllerClient
    from cluster.ingress.app import deploy

    is_new = deploy(
        config,
        models=models,
        secret=state.cluster_secret(),
        namespace=NAMESPACE,
        controller_name=CONTROLLER_NAME,
        avoid=avoid,
    )
    controller = ControllerClient.find()
    if is_new and controller is not None:
        controller.tell(EventKind.ROLLOUT, "ingress", "its replicas are as wanted; old ones finish what they have")
