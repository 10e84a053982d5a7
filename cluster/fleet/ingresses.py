"""Which ingress replicas live, where, and for which models: those that asked for the table of workers of late."""

INGRESS_TIMEOUT_S = 3.0  # a replica asks for the table twice a second


class Ingresses:
    """Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], tuple[float, str]] = {}  # replica's id, model -> when last, its node's id

    def ask(self, ingress_id: str, node_id: str, model: str, now_s: float) -> None:
        """`model`: as of `WorkerEntry`, whose workers it looks for."""
        self._asked[ingress_id, model] = (now_s, node_id)

    def nodes(self, now_s: float) -> list[str]:
        """Of each that lives, the id of its node."""
        self._forget(now_s)
        return list({replica: node_id for (replica, _), (_, node_id) in self._asked.items()}.values())

    def all_ask_for(self, model: str, now_s: float) -> bool:
        """Whether each that lives looks for workers of this model, maybe of others too."""
        self._forget(now_s)
        replicas = {replica for replica, _ in self._asked}
        return all((replica, model) in self._asked for replica in replicas)

    def _forget(self, now_s: float) -> None:
        self._asked = {one: asked for one, asked in self._asked.items() if now_s - asked[0] < INGRESS_TIMEOUT_S}
