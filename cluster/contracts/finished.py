"""What an ingress measured of one request, once it has ended: for metrics, the access log, plots and the autopilot."""

import math
from dataclasses import dataclass

from cluster.contracts.slo import SLO

OK, CANCELLED = "ok", "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRequest:
    """Times are seconds of the ingress's monotonic clock.

    Attributes:
        model: As its client named it; of several versions of a model, the one that answered: chat@v2.
        status: ok, cancelled (its client went away), or the code of its error.
        ttft_s: Of its first choice to begin; None: no token was sent.
        tpot_s: Mean gap between tokens of a choice; None: none has two.
        slo: Of its model; None: that of the cluster.
    """

    request_id: str
    model: str
    route: str
    status: str
    arrived_s: float
    ended_s: float
    num_choices: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    slo: SLO | None = None

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.arrived_s

    def meets(self, slo: SLO) -> bool:
        """Whether it was served well; one whose client left is judged by what it got, others that failed are not.

        Args:
            slo: Of the cluster.
        """
        slo = self.slo or slo
        if self.status not in (OK, CANCELLED):
            return False
        return slo.is_met(math.nan if self.ttft_s is None else self.ttft_s, self.tpot_s or 0.0)
