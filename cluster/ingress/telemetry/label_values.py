"""Label values, of bounded variety whatever clients and workers send."""

from baton.errors import all_codes
from cluster.contracts.finished import CANCELLED, OK
from cluster.ingress.telemetry.instruments import OTHER

MAX_MODELS = 64  # the first ones that were asked for; LoRA adapters come and go
_STATUSES = frozenset((OK, CANCELLED, *all_codes()))


def status_of(code: str) -> str:
    return code if code in _STATUSES else OTHER


def clients_faults() -> frozenset[str]:
    """Codes of requests that no server could have served: an SLO says nothing of them."""
    return frozenset(code for code, status in all_codes().items() if 400 <= status < 500 and status not in (429, 499))


class ModelNames:
    def __init__(self, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        self._shown: set[str] = set()

    def shown(self, name: str) -> str:
        if name not in self._shown:
            if len(self._shown) >= self._max_models:
                return OTHER
            self._shown.add(name)
        return name
