"""Which ingress replicas live, where, and for which models: those that asked for the table of workers of late."""

INGRESS_TIMEOUT_S = 3.0  # a replica asks for the table twice a second
INGRESS_GONE_S = 15.0  # one that is held up, by its machine for one, comes back before


class Ingresses:
    """Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], tuple[float, str]] = {}  # replica's id, model -> when last, its node's id

    def ask(self, ingress_id: str, node_id: str, model: str, now_s: float) -> None:
        """`model`: as of `WorkerEntry`, whose workers it looks for."""
        self._asked[ingress_id, model] = (now_s, node_id)

    def nodes(self, now_s: float) -> list[str]:
        """Of each that lives, the id of its node."""
        return self._nodes(now_s, INGRESS_TIMEOUT_S)

    def occupied(self, now_s: float) -> list[str]:
        """The same of each that may still be there, though it is silent: its node must not be taken down yet."""
        return self._nodes(now_s, INGRESS_GONE_S)

    def all_ask_for(self, model: str, now_s: float) -> bool:
        """Whether each that lives looks for workers of this model, maybe of others too."""
        living = self._of_late(now_s, INGRESS_TIMEOUT_S)
        return all((replica, model) in living for replica, _ in living)

    def _nodes(self, now_s: float, within_s: float) -> list[str]:
        return list(
            {replica: node_id for (replica, _), (_, node_id) in self._of_late(now_s, within_s).items()}.values()
        )

    def _of_late(self, now_s: float, within_s: float) -> dict[tuple[str, str], tuple[float, str]]:
        self._asked = {one: asked for one, asked in self._asked.items() if now_s - asked[0] < INGRESS_GONE_S}
        return {one: asked for one, asked in self._asked.items() if now_s - asked[0] < within_s}
