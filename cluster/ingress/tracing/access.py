"""One line for each request that ended: who asked what, how it ended, how long it took, and who worked on it.

No text of prompt or answer, and no key but its name. Health checks and scrapes have none.
"""

import logging
from collections.abc import Mapping
from typing import Any

from cluster.ingress.route_names import route_name
from cluster.ingress.tracing.record import CallRecord
from cluster.ingress.tracing.visit import GRPC, Visit
from cluster.logs.fields import log_fields

MESSAGE = "request ended"
QUIET_PATHS = frozenset(("/", "/health", "/healthz", "/ping", "/metrics", "/metrics/targets"))
LOUD = frozenset(("401", "403", "500"))  # a scraper without its key, and a fault of ours, are news there too
MAX_PATH = 200  # characters of one that nobody knows
GONE = "499"  # what nginx calls a client that left before there was a status

logger = logging.getLogger("baton.access")


def log_access(visit: Visit) -> None:
    if visit.protocol != GRPC and visit.path in QUIET_PATHS and visit.status not in LOUD:
        return
    log_fields(logger, logging.INFO, MESSAGE, _fields(visit))


def _fields(visit: Visit) -> Mapping[str, Any]:
    assert visit.ended_s is not None
    record = visit.record
    fields = {
        "request_id": visit.request_id,
        "trace_id": visit.trace.trace_id if visit.trace is not None else None,
        "key": visit.key_name,
        "protocol": visit.protocol,
        "method": visit.method,
        "path": _printable(visit.path),
        "route": record.route if record is not None else _route(visit),
        "status": int(visit.status) if visit.status.isdecimal() else visit.status or GONE,
        "error": visit.error_code or None,
        "duration_s": round(visit.ended_s - visit.arrived_s, 6),
    }
    return fields if record is None else fields | _of_call(record)


def _of_call(record: CallRecord) -> dict[str, Any]:
    attempts = [attempt for track in record.tracks for attempt in track.attempts]
    last = attempts[-1] if attempts else None
    return {
        "answer_id": record.request_id,
        "model": record.model,
        "outcome": record.status,
        "num_prompt_tokens": record.num_prompt_tokens,
        "num_cached_tokens": record.num_cached_tokens,
        "num_output_tokens": record.num_output_tokens,
        "ttft_s": _rounded(record.ttft_s),
        "tpot_s": _rounded(record.tpot_s),
        "e2e_s": _rounded(None if record.ended_s is None else record.ended_s - record.arrived_s),
        "prefill": last.prefill_id if last is not None else None,
        "decode": last.decode_id if last is not None else None,
        "draft": last.draft_id if last is not None else None,
        "num_attempts": sum(track.num_attempts for track in record.tracks),
    }


def _route(visit: Visit) -> str:
    return "grpc" if visit.protocol == GRPC else route_name(visit.path)


def _printable(path: str) -> str:
    """A client writes it: no line breaks, no spaces, no end."""
    return "".join(char if char.isprintable() and char != " " else "?" for char in path[:MAX_PATH])


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
