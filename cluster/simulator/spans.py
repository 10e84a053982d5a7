"""What workers and requests did when, for a timeline. A request is always in one phase: each begins where one ended."""

from cluster.contracts.simulation import TimelineSpan


class Spans:
    def __init__(self) -> None:
        self.spans: list[TimelineSpan] = []
        self._since_s: dict[str, float] = {}  # by request id

    def worker(self, worker_id: str, kind: str, start_s: float, end_s: float, num_sequences: int) -> None:
        self.spans.append(
            TimelineSpan(lane=worker_id, kind=kind, start_s=start_s, end_s=end_s, num_sequences=num_sequences)
        )

    def arrived(self, request_id: str, now_s: float) -> None:
        self._since_s[request_id] = now_s

    def passed(self, request_id: str, kind: str, now_s: float) -> None:
        """The request has been in a phase until now; none of no length."""
        start_s = self._since_s.get(request_id)
        if start_s is not None and start_s < now_s:
            self.spans.append(TimelineSpan(lane=f"request {request_id}", kind=kind, start_s=start_s, end_s=now_s))
            self._since_s[request_id] = now_s

    def downtime(self, worker_id: str, kind: str, start_s: float, end_s: float) -> None:
        if start_s < end_s:
            self.spans.append(TimelineSpan(lane=worker_id, kind=kind, start_s=start_s, end_s=end_s))
