"""Which ingress replicas live, and where: those that asked for the table of workers of late."""

INGRESS_TIMEOUT_S = 3.0  # a replica asks for the table twice a second


class Ingresses:
    """Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[float, str]] = {}  # replica's id -> when it asked last, and the id of its node

    def ask(self, ingress_id: str, node_id: str, now_s: float) -> None:
        self._asked[ingress_id] = (now_s, node_id)

    def nodes(self, now_s: float) -> list[str]:
        """Of each that lives, the id of its node."""
        self._asked = {one: asked for one, asked in self._asked.items() if now_s - asked[0] < INGRESS_TIMEOUT_S}
        return [node_id for _, node_id in self._asked.values()]
