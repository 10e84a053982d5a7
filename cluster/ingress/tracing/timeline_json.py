"""A call's record as JSON: see docs/observability.md. Times are seconds since it arrived."""

from collections.abc import Iterable, Iterator
from typing import Any

from cluster.ingress.tracing.record import CallRecord
from cluster.ingress.tracing.transfer import transfer_of
from cluster.router.marks import Marks
from cluster.router.track import Attempt, Track
from cluster.router.worker_story import WorkerStory

OUTPUT_COLUMNS = ("at_s", "num_tokens", "num_drafted", "num_accepted")
_DIGITS = 6  # microseconds


def summary_json(record: CallRecord, now_s: float, replica: str) -> dict[str, Any]:
    """One line of a list."""
    attempts = [attempt for track in record.tracks for attempt in track.attempts]
    last = attempts[-1] if attempts else None
    return {
        "request_id": record.request_id,
        "x_request_id": record.x_request_id or None,
        "trace_id": record.trace.trace_id if record.trace is not None else None,
        "replica": replica,
        "model": record.model,
        "route": record.route,
        "key": record.key_name,
        "arrived_at": round(record.arrived_at, _DIGITS),
        "status": record.status or "running",
        "error": record.error or None,
        "e2e_s": round(record.e2e_s(now_s), _DIGITS),
        "ttft_s": _rounded(record.ttft_s),
        "tpot_s": _rounded(record.tpot_s),
        "num_prompt_tokens": record.num_prompt_tokens,
        "num_cached_tokens": record.num_cached_tokens,
        "num_output_tokens": record.num_output_tokens,
        "num_drafted_tokens": record.num_drafted_tokens,
        "num_accepted_tokens": record.num_accepted_tokens,
        "num_attempts": sum(track.num_attempts for track in record.tracks),
        "prefill": last.prefill_id if last is not None else None,
        "decode": last.decode_id if last is not None else None,
        "draft": last.draft_id if last is not None else None,
    }


def timeline_json(record: CallRecord, now_s: float, replica: str) -> dict[str, Any]:
    since = _Since(record.arrived_s)
    return {
        **summary_json(record, now_s, replica),
        "phases": [
            {"name": name, "start_s": since(start_s), "end_s": since(end_s)} for name, start_s, end_s in record.phases
        ],
        "output_columns": list(OUTPUT_COLUMNS),
        "prompts": [
            _prompt(record, track, first_choice, since)
            for track, first_choice in zip(record.tracks, record.first_choices, strict=True)
        ],
    }


class _Since:
    """A moment as seconds since the arrival; None stays None."""

    def __init__(self, arrived_s: float) -> None:
        self._arrived_s = arrived_s

    def __call__(self, at_s: float | None) -> float | None:
        return None if at_s is None else round(at_s - self._arrived_s, _DIGITS)


def _prompt(record: CallRecord, track: Track, first_choice: int, since: _Since) -> dict[str, Any]:
    return {
        "num_tokens": track.num_prompt_tokens,
        "queued_s": since(track.queued_s),
        "admitted_s": since(track.admitted_s),
        "attempts": list(_attempts(record, track, first_choice, since)),
        "choices": [
            _choice(marks, number, record.finish_reasons.get(number), since)
            for number, marks in enumerate(track.marks, start=first_choice)
        ],
    }


def _attempts(record: CallRecord, track: Track, first_choice: int, since: _Since) -> Iterator[dict[str, Any]]:
    for attempt in track.attempts:
        transfer = transfer_of(attempt)
        yield {
            "attempt": attempt.number,
            "choices": [first_choice + choice for choice in attempt.choices],
            "sent_s": since(attempt.sent_s),
            "prefill": attempt.prefill_id,
            "decode": attempt.decode_id,
            "draft": attempt.draft_id,
            "num_expected_cached_tokens": attempt.num_expected_tokens,
            "num_cached_tokens": attempt.num_cached_tokens,
            "ended_s": since(record.ended_s if attempt.ended_s is None else attempt.ended_s),
            "end": attempt.end or record.status,
            "error": attempt.error or None,
            "workers": [_worker(story, attempt, since) for story in attempt.stories],
            "transfer": None
            if transfer is None
            else {
                "start_s": since(transfer.start_s),
                "end_s": since(transfer.end_s),
                "hidden_s": round(transfer.hidden_s, _DIGITS),
                "num_bytes": transfer.num_bytes,
            },
        }


def _worker(story: WorkerStory, attempt: Attempt, since: _Since) -> dict[str, Any]:
    return {
        "worker": story.worker_id,
        "reads": bool(story.chunks),
        "received_s": since(story.received_s),
        "scheduled_s": since(story.scheduled_s),
        "heard_s": since(story.heard_s),
        "chunks": [
            {
                "start_s": since(chunk.start_s),
                "end_s": since(chunk.end_s),
                "num_tokens": chunk.num_tokens,
                "num_context_tokens": chunk.num_context_tokens,
                "num_steps": chunk.num_steps,
            }
            for chunk in story.chunks
        ],
        "offered_s": since(story.offered_s),
        "granted_s": since(story.granted_s),
        "arrived_s": since(story.arrived_s),
        "num_bytes": story.num_bytes,
        "num_preemptions": story.num_preemptions,
    }


def _choice(marks: Marks, number: int, finish_reason: str | None, since: _Since) -> dict[str, Any]:
    return {
        "choice": number,
        "finish_reason": finish_reason,
        "first_token_s": since(marks.first_s),
        "last_token_s": since(marks.last_s),
        "num_outputs": marks.num_outputs,
        "num_tokens": marks.num_tokens,
        "num_drafted": marks.num_drafted,
        "num_accepted": marks.num_accepted,
        "outputs_per_mark": marks.outputs_per_mark,
        "outputs": [[since(mark.at_s), *mark[1:]] for mark in marks],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)


def slowest(records: Iterable[CallRecord], limit: int, now_s: float) -> list[CallRecord]:
    """Those that took longest to their first token and then to their end, the slowest first."""
    return sorted(records, key=lambda record: record.e2e_s(now_s), reverse=True)[:limit]
