"""The spans of one attempt: what its workers did, by their own accounts and by the outputs that came."""

from collections.abc import Iterator

from cluster.ingress.tracing.sketch import Event, Sketch, Value
from cluster.ingress.tracing.transfer import transfer_of
from cluster.router.track import OK, Attempt, Track
from cluster.router.worker_story import WorkerStory

MAX_CHUNKS = 32  # spans of a prompt's chunks; the rest are in the count of their prefill alone
MARKS_ERROR_S = 1e-3  # of when outputs came: see `Marks`
_WORKER = "service.instance.id"  # that the span is about: the process that sends it is the ingress


def attempt_span(attempt: Attempt, track: Track, ended_s: float) -> Sketch:
    """`ended_s`: of an attempt that nobody ended."""
    end_s = ended_s if attempt.ended_s is None else attempt.ended_s
    failed = attempt.end if attempt.end not in (None, OK) else None
    attributes: dict[str, Value] = {
        "baton.attempt": attempt.number,
        "baton.decode.worker": attempt.decode_id,
        "baton.expected_cached_tokens": attempt.num_expected_tokens,
    }
    for name, value in (("baton.prefill.worker", attempt.prefill_id), ("baton.draft.worker", attempt.draft_id)):
        if value is not None:
            attributes[name] = value
    if attempt.num_cached_tokens is not None:
        attributes["baton.cached_tokens"] = attempt.num_cached_tokens
    return Sketch(
        name="attempt",
        start_s=attempt.sent_s,
        end_s=end_s,
        attributes=attributes,
        events=[Event("retried", end_s, (("error.type", failed),))] if failed else [],
        error=failed or "",
        children=[*_prefills(attempt), *_link(attempt), *_decode(attempt, track, end_s)],
    )


def _prefills(attempt: Attempt) -> Iterator[Sketch]:
    for story in attempt.stories:
        if story.chunks:
            yield _prefill(story)


def _prefill(story: WorkerStory) -> Sketch:
    chunks = [
        Sketch(
            name="chunk",
            start_s=chunk.start_s,
            end_s=chunk.end_s,
            attributes={"baton.tokens": chunk.num_tokens, "baton.context_tokens": chunk.num_context_tokens},
        )
        for chunk in story.chunks[:MAX_CHUNKS]
    ]
    return Sketch(
        name="prefill",
        start_s=story.received_s,
        end_s=story.chunks[-1].end_s,
        attributes={
            _WORKER: story.worker_id,
            "baton.tokens": sum(chunk.num_tokens for chunk in story.chunks),
            "baton.chunks": sum(chunk.num_steps for chunk in story.chunks),
            "baton.preemptions": story.num_preemptions,
            "baton.queue_s": round(story.scheduled_s - story.received_s, 6),
        },
        events=[Event("scheduled", story.scheduled_s)],
        children=chunks,
    )


def _link(attempt: Attempt) -> Iterator[Sketch]:
    transfer = transfer_of(attempt)
    if transfer is not None:
        yield Sketch(
            name="transfer",
            start_s=transfer.start_s,
            end_s=transfer.end_s,
            attributes={
                "baton.from.worker": attempt.prefill_id or "",
                "baton.to.worker": attempt.decode_id,
                "baton.bytes": transfer.num_bytes,
                "baton.hidden_s": round(transfer.hidden_s, 6),
            },
        )


def _decode(attempt: Attempt, track: Track, end_s: float) -> Iterator[Sketch]:
    """From when the decode worker went on with the answer until the attempt's end, of all its choices."""
    marks = [
        mark
        for choice in attempt.choices
        for mark in track.marks[choice]
        if attempt.sent_s <= mark.at_s <= end_s + MARKS_ERROR_S
    ]
    num_tokens = sum(mark.num_tokens for mark in marks)
    if num_tokens <= len(attempt.choices):  # whoever reads the prompt writes the first one
        return
    joined_s = next((story.arrived_s for story in attempt.stories if story.arrived_s is not None), None)
    start_s = min(mark.at_s for mark in marks) if joined_s is None else joined_s
    decode = Sketch(
        name="decode",
        start_s=start_s,
        end_s=end_s,
        attributes={_WORKER: attempt.decode_id, "baton.tokens": num_tokens},
    )
    if drafted := [mark for mark in marks if mark.num_drafted]:
        decode.children.append(
            Sketch(
                name="draft",
                start_s=start_s,
                end_s=max(mark.at_s for mark in drafted),
                attributes={
                    _WORKER: attempt.draft_id or attempt.decode_id,
                    "baton.draft.tokens": sum(mark.num_drafted for mark in drafted),
                    "baton.draft.accepted_tokens": sum(mark.num_accepted for mark in drafted),
                },
            )
        )
    yield decode
