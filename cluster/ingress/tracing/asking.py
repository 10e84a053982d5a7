"""What may be asked about the calls that replicas remember, and what one replica answers."""

import time
from dataclasses import dataclass
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten
from cluster.ingress.tracing.record import CallRecord
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.timeline_json import slowest, summary_json, timeline_json

ORDERS = ("last", "slowest")
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    Attributes:
        request_id: Of an answer, or of `X-Request-Id`; empty: a list of calls is wanted.
        key_name: Whose calls may be told; None: all.
    """

    request_id: str = ""
    order: str = "last"
    limit: int = 20
    key_name: str | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidRequestError."""
        if self.order not in ORDERS:
            raise InvalidRequestError(f"order is {shorten(self.order)}; it may be {' or '.join(ORDERS)}", "order")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidRequestError(f"limit is {self.limit}; it may be 1 to {MAX_LIMIT}", "limit")


def answer(ring: Ring, question: Question, replica: str) -> list[dict[str, Any]]:
    """The call that is asked for, or none; or a line for each of those that are."""
    now_s = time.monotonic()

    def may_see(record: CallRecord) -> bool:
        return question.key_name is None or record.key_name == question.key_name

    if question.request_id:
        found = ring.find(question.request_id, question.key_name)
        return [timeline_json(found, now_s, replica)] if found is not None and may_see(found) else []
    records = [record for record in ring if may_see(record)]
    if question.order == "slowest":
        records = slowest(records, question.limit, now_s)
    return [summary_json(record, now_s, replica) for record in records[: question.limit]]


def merged(question: Question, answers: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of several replicas."""
    rows = [row for answer in answers for row in answer]
    by = "e2e_s" if question.order == "slowest" else "arrived_at"
    return sorted(rows, key=lambda row: float(row[by]), reverse=True)[: question.limit]
