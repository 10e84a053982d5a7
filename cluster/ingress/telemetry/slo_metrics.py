"""How many requests were served within the SLO: as counters, for alerts, and over windows, for people."""

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.metrics_core import Metric

from cluster.contracts.finished import FinishedRequest
from cluster.contracts.slo import SLO
from cluster.contracts.windows import WINDOWS_S, SLOWindows
from cluster.ingress.telemetry.instruments import Numbers
from cluster.ingress.telemetry.label_values import ModelNames, clients_faults
from workers.telemetry.described import Described, Sample, counter, gauge

MET, SLOW_FIRST_TOKEN, SLOW_TOKENS, FAILED = RESULTS = ("met", "slow_first_token", "slow_tokens", "failed")
COUNTED = counter(
    "baton_slo_requests_total",
    "requests",
    "That an SLO speaks of (not those whose own fault it was), "
    "by result: met; slow_first_token (TTFT over its limit); slow_tokens (TPOT over its limit); failed",
    "model",
    "result",
)
TTFT_LIMIT = gauge("baton_slo_ttft_limit_seconds", "seconds", "As the config has it (slo.ttft_ms)")
TPOT_LIMIT = gauge("baton_slo_tpot_limit_seconds", "seconds", "As the config has it (slo.tpot_ms)")
TARGET = gauge("baton_slo_target_ratio", "ratio", "Of requests that shall meet both limits (slo.attainment)")
ATTAINMENT = gauge(
    "baton_slo_attainment_ratio",
    "ratio",
    "Of the requests that ended in a window, those that met the "
    "SLO; window: 1m, 5m, 30m, 1h, 6h. None without requests",
    "model",
    "window",
)
GOODPUT = gauge(
    "baton_slo_goodput_requests_per_second", "requests/s", "That met the SLO, over a window", "model", "window"
)
DESCRIBED: Sequence[Described] = (COUNTED, TTFT_LIMIT, TPOT_LIMIT, TARGET, ATTAINMENT, GOODPUT)


class SLOMetrics:
    """`clock`: that of the requests' times."""

    def __init__(self, slo: SLO, clock: Callable[[], float] = time.monotonic) -> None:
        self.windows: dict[str, SLOWindows] = {}  # by model
        self._slo = slo
        self._clock = clock
        self._started_s = clock()
        self._names = ModelNames()
        self._counted = Numbers(COUNTED)
        self._excused = clients_faults()

    def take(self, finished: FinishedRequest) -> None:
        if finished.status in self._excused:
            return
        model, result = self._names.shown(finished.model), self._result(finished)
        windows = self.windows.get(model)
        if windows is None:
            windows = self._begin(model)
        self._counted.labels(model, result).inc()
        windows.note(finished.ended_s, is_met=result == MET)

    def _begin(self, model: str) -> SLOWindows:
        """Every result is there from the beginning: a share of what does not exist is nothing, and alerts nobody."""
        for result in RESULTS:
            self._counted.labels(model, result)
        windows = self.windows[model] = SLOWindows(self._started_s)
        return windows

    def collect(self) -> Iterator[Metric]:
        yield self._counted.collect()
        for described, value in (
            (TTFT_LIMIT, self._slo.ttft_s), (TPOT_LIMIT, self._slo.tpot_s), (TARGET, self._slo.attainment)
        ):  # fmt: skip
            yield described.family([((), value)])
        now_s = self._clock()
        served = {
            (model, name): windows.over(over_s, now_s)
            for model, windows in self.windows.items()
            for name, over_s in WINDOWS_S.items()
        }
        shares = [(labels, one.attainment) for labels, one in served.items()]
        attained: list[Sample] = [(labels, share) for labels, share in shares if share is not None]
        yield ATTAINMENT.family(attained)
        yield GOODPUT.family((labels, one.goodput) for labels, one in served.items())

    def _result(self, finished: FinishedRequest) -> str:
        if finished.meets(self._slo):
            return MET
        if finished.ttft_s is None:
            return FAILED
        slo = finished.slo or self._slo
        return SLOW_FIRST_TOKEN if finished.ttft_s > slo.ttft_s else SLOW_TOKENS
