"""One ingress replica's stream as its worker sees it: what is to be sent, and when the next load report is due.

Invariant: something is due within `HEARTBEAT_S` of the last message, whatever the ingress wishes; a load that has
changed is due `interval_s` after the last report. No clock: times are seconds on the caller's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from baton.v1.worker_pb2 import FromWorker, Measures, ReportWish, StepOutputs, TokenOutput, WorkerState
from workers.engine.cache_news import CacheNews

MIN_REPORT_S = 0.05
HEARTBEAT_S = 1.0  # an ingress holds a worker for lost after 1.75 s of silence
MAX_QUEUED_MESSAGES = 65_536  # of one ingress that does not read: then it is cut off
MAX_QUEUED_REPORTS = 64  # messages up to which another report is queued behind them


@dataclass(slots=True, kw_only=True, eq=False)
class IngressSession:
    ingress_id: str
    cache: CacheNews
    messages: asyncio.Queue[FromWorker | None] = field(default_factory=asyncio.Queue)
    interval_s: float = MIN_REPORT_S
    has_changed: bool = False  # the load, since the last report
    told_s: float = 0.0  # last message of any kind
    reported_s: float = 0.0
    measures: Measures | None = None  # to be told with the next report

    @property
    def due_s(self) -> float:
        heartbeat_s = self.told_s + HEARTBEAT_S
        return min(self.reported_s + self.interval_s, heartbeat_s) if self.has_changed else heartbeat_s

    def wish(self, wish: ReportWish) -> None:
        if wish.interval_s:
            self.interval_s = min(max(wish.interval_s, MIN_REPORT_S), HEARTBEAT_S)

    def hurry(self) -> None:
        """What has changed cannot wait."""
        self.reported_s = -HEARTBEAT_S

    def report(self, state: WorkerState, now_s: float) -> WorkerState:
        """Makes `state` the report of now."""
        self.cache.fill(state)
        if self.measures is not None:
            state.measures.CopyFrom(self.measures)
            self.measures = None
        self.has_changed = False
        self.told_s = self.reported_s = now_s
        return state

    def tell(self, state: Callable[[], WorkerState], now_s: float, *, is_waiting: bool) -> None:
        """Queues the report that is due, or a sign of life.

        Args:
            is_waiting: For a step to finish: that it has not is told again and again.
        """
        if self.messages.qsize() > MAX_QUEUED_REPORTS:
            self.told_s = self.reported_s = now_s  # it reads late: another report would only be older still
        elif self.has_changed or is_waiting:
            self.messages.put_nowait(FromWorker(state=self.report(state(), now_s)))
        else:
            self.told_s = now_s
            self.messages.put_nowait(FromWorker())

    def send(self, outputs: list[TokenOutput], state: Callable[[], WorkerState], now_s: float) -> None:
        """Queues one step's outputs, and the report with them if it is due: one message costs less than two."""
        message = FromWorker(outputs=StepOutputs(outputs=outputs))
        if self.has_changed and now_s >= self.reported_s + self.interval_s:
            message.state.CopyFrom(self.report(state(), now_s))
        self.told_s = now_s
        self.messages.put_nowait(message)
