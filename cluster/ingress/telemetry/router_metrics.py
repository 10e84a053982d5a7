"""What one ingress replica's routers count, and what they know of their workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from baton.v1.worker_pb2 import Measures
from cluster.router.counters import Counters
from cluster.router.workers import WorkerView
from workers.telemetry.described import Described, Labels, counter, gauge, histogram
from workers.telemetry.families import Told, worker_families
from workers.telemetry.histogram import Histogram

QUEUE = histogram(
    "baton_queue_seconds",
    "seconds",
    "From a request's arrival at the router until it was sent to its first worker",
    "model",
)
STEP = histogram(
    "baton_ingress_step_seconds",
    "seconds",
    "That this replica took to hand on what one step of one worker gave",
    "model",
)
ADMITTED = gauge("baton_requests_admitted", "requests", "That are with workers, or about to be", "model")
QUEUED = gauge("baton_requests_queued", "requests", "That wait until others have ended (router.max_running)", "model")
SHED = counter("baton_requests_shed_total", "requests", "Turned away, since the queue was full", "model")
RETRIES = counter(
    "baton_request_retries_total", "attempts", "That went on with a request after an attempt was lost", "model"
)
LOST = counter("baton_workers_lost_total", "workers", "That this replica had a stream to, and lost", "model")
UP = gauge(
    "baton_worker_up",
    "1",
    "1: its stream stands and it has reported; 0: what is told of it is old, see baton_worker_state_age_seconds",
    "worker",
    "role",
    "model",
)
AGE = gauge("baton_worker_state_age_seconds", "seconds", "Of what is told of a worker here", "worker", "role", "model")

_NUMBERS: Mapping[Described, Callable[[Counters], float]] = {
    ADMITTED: lambda counters: counters.num_running,
    QUEUED: lambda counters: counters.num_queued,
    SHED: lambda counters: counters.num_shed,
    RETRIES: lambda counters: counters.num_retries,
    LOST: lambda counters: counters.num_lost_workers,
}
_HISTOGRAMS: Mapping[Described, Callable[[Counters], Histogram]] = {
    QUEUE: lambda counters: counters.queue_s,
    STEP: lambda counters: counters.step_s,
}
_NOTHING = Measures()
DESCRIBED: Sequence[Described] = (*_NUMBERS, *_HISTOGRAMS)
OF_WORKERS: Sequence[Described] = (UP, AGE)


def router_families(by_model: Mapping[str, Counters]) -> Iterator[Metric]:
    for described, number in _NUMBERS.items():
        yield described.family(((model,), number(counters)) for model, counters in by_model.items())
    for described, of in _HISTOGRAMS.items():
        histograms = ((model, of(counters)) for model, counters in by_model.items())
        yield described.histogram(((model,), h.bounds, h.counts, h.sum) for model, h in histograms)


def told_by(views: Sequence[WorkerView]) -> list[Told]:
    """The last words of each worker that has said anything."""
    return [told for view in views if (told := _told(view)) is not None]


def fleet_families(views: Sequence[WorkerView]) -> list[Metric]:
    """Of every worker in the table, those that do not answer too."""
    told = [_told(view) for view in views]
    known = [(_unheard(view) if one is None else one.labels, view) for one, view in zip(told, views, strict=True)]
    up = UP.family((own, view.up) for own, view in known)
    age = AGE.family((own, view.age_s) for own, view in known if view.state is not None)
    return [up, age, *worker_families([one for one in told if one is not None])]


def _told(view: WorkerView) -> Told | None:
    if view.state is None:
        return None
    measures = view.measures or _NOTHING
    return Told(view.entry.worker_id, view.state, measures, view.model or view.state.served_name)


def _unheard(view: WorkerView) -> Labels:
    return (view.entry.worker_id, view.entry.role.value, view.model)
