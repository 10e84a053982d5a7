"""Opens the record of a call, within the visit that it was made in."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from baton.v1.inference_pb2 import SamplingParams
from cluster.ingress.answer import PromptJob
from cluster.ingress.tracing.record import Asked, CallRecord
from cluster.ingress.tracing.visit import Visit
from cluster.router.track import Track


class Heading(NamedTuple):
    """`model`: as the answer names it; `served_model`: what that is an adapter of, or itself."""

    request_id: str
    model: str
    served_model: str
    route: str
    started_s: float


def new_record(heading: Heading, jobs: Sequence[PromptJob], visit: Visit | None) -> CallRecord:
    """`visit`: None: it came in no request, as in tests."""
    now_s, now_at = time.monotonic(), time.time()
    arrived_s = heading.started_s if visit is None else visit.arrived_s
    record = CallRecord(
        request_id=heading.request_id,
        x_request_id="" if visit is None else visit.request_id,
        trace=None if visit is None else visit.trace,
        key_name=None if visit is None else visit.key_name,
        model=heading.model,
        served_model=heading.served_model,
        route=heading.route,
        arrived_s=arrived_s,
        arrived_at=now_at - (now_s - arrived_s) if visit is None else visit.arrived_at,
        asked=_asked(jobs[0].sampling),
        phases=[] if visit is None else visit.phases,
        tracks=[Track(len(job.prompt_token_ids), job.sampling.n) for job in jobs],
        first_choices=[job.first_choice for job in jobs],
    )
    if visit is not None:
        visit.record = record
    return record


def _asked(sampling: SamplingParams) -> Asked:
    def said(name: str) -> float | None:
        value: float | None = getattr(sampling, name) if sampling.HasField(name) else None
        return value

    top_k = said("top_k")
    return Asked(
        max_tokens=sampling.max_tokens,
        num_choices=sampling.n,
        temperature=said("temperature"),
        top_p=said("top_p"),
        top_k=None if top_k is None else int(top_k),
        seed=sampling.seed,
        frequency_penalty=said("frequency_penalty"),
        presence_penalty=said("presence_penalty"),
    )
