"""The cluster as `GET /cluster` answers it; docs/page.md describes every field.

Made of what others measured, without waiting: see `view` for who looks, and when.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.contracts.events import Event
from cluster.contracts.slo import SLO
from cluster.ingress.cluster_api.change import Picture
from cluster.ingress.cluster_api.fleet_news import FleetNews, event_row
from cluster.ingress.cluster_api.request_window import STEP_S, Slice, joined
from cluster.ingress.cluster_api.trend import percentiles_ms
from cluster.ingress.cluster_api.worker_row import Row, worker_row
from cluster.router.handovers import Handed, Pair
from cluster.router.workers import WorkerView

MAX_STREAMS = 200  # pairs that are shown: the busiest
POOLS = ("prefill", "mixed", "decode", "draft")
LATELY = 12  # slices, a minute: what the figures at the top are of


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLook:
    """What is known of one fleet at one moment.

    Attributes:
        model: As clients name it.
        age_s: Since its controller last answered; None: never.
        error: Of the controller, where it does not answer.
        handed: In the last slice.
    """

    model: str
    views: Sequence[WorkerView]
    news: FleetNews | None
    age_s: float | None
    error: str
    events: Sequence[Event]
    handed: Mapping[Pair, Handed]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShare:
    """What one ingress replica adds: to be told to the others."""

    num_queued: int
    num_running: int
    num_shed: int
    num_retries: int
    slices: Mapping[int, Slice]
    handed: Mapping[str, Mapping[Pair, Handed]]  # by model


def picture(number: int, at_s: float, looks: Sequence[FleetLook], slo: SLO) -> Picture:
    """Without its requests and trend."""
    fleets = [_fleet(look) for look in looks]
    return {
        "number": number,
        "at_s": round(at_s, 3),
        "model": looks[0].model if looks else "",
        "slo": {"ttft_ms": slo.ttft_s * 1000, "tpot_ms": slo.tpot_s * 1000, "attainment": slo.attainment},
        "fleets": fleets,
        "pools": [pool for look in looks for pool in _pools(look)],
        "workers": _workers(looks),
        "streams": _streams(looks),
        "events": _events(looks),
    }


def requests(shares: Iterable[ReplicaShare], slices: Mapping[int, Slice], last: int) -> dict[str, Any]:
    """Of all replicas. `last`: the number of the newest slice that is whole."""
    counts = list(shares)
    newest = [one for number, one in slices.items() if last - LATELY < number <= last + 1]
    lately = joined([{0: one} for one in newest]).get(0, Slice())
    return {
        "num_replicas": len(counts),
        "num_queued": sum(one.num_queued for one in counts),
        "num_running": sum(one.num_running for one in counts),
        "num_shed": sum(one.num_shed for one in counts),
        "num_retries": sum(one.num_retries for one in counts),
        "lately": {
            "span_s": LATELY * STEP_S,
            "num_ended": lately.num_ended,
            "num_failed": lately.num_failed,
            "num_met": lately.num_met,
            "attainment": round(lately.num_met / lately.num_ended, 4) if lately.num_ended else None,
            "num_prompt_tokens": lately.num_prompt_tokens,
            "num_cached_tokens": lately.num_cached_tokens,
            "num_output_tokens": lately.num_output_tokens,
            "ttft_ms": percentiles_ms(lately.ttft),
            "tpot_ms": percentiles_ms(lately.tpot),
        },
    }


def _fleet(look: FleetLook) -> dict[str, Any]:
    news = look.news
    return {
        "model": look.model,
        "ready": news.ready if news is not None else any(view.up for view in look.views),
        "num_ingress_replicas": news.num_ingress_replicas if news is not None else None,
        "controller": {
            "answers": not look.error and news is not None,
            "age_s": None if look.age_s is None else round(look.age_s) // 5 * 5,  # a coarse one changes seldom
            "error": look.error,
        },
        "refused": list(news.refused) if news is not None else [],
        "autopilot": news.autopilot if news is not None else None,
    }


def _pools(look: FleetLook) -> list[dict[str, Any]]:
    if look.news is not None:
        return [{"fleet": look.model, **pool} for pool in look.news.pools]
    roles = [view.entry.role.value for view in look.views]
    up = [view.entry.role.value for view in look.views if view.up]
    return [
        {
            "fleet": look.model,
            "role": role,
            "num_desired": roles.count(role),
            "num_ready": up.count(role),
            "waits": "",
        }
        for role in sorted(set(roles))
    ]


def _workers(looks: Sequence[FleetLook]) -> list[Row]:
    """Fleets name their workers apart, so an id is a key; where it is not, the later one has its model before it."""
    rows: dict[str, Row] = {}
    for look in looks:
        for row in _fleet_workers(look):
            key = row["id"] if row["id"] not in rows else f"{look.model}/{row['id']}"
            rows[key] = {"key": key, "fleet": look.model, **row}
    return list(rows.values())


def _fleet_workers(look: FleetLook) -> list[Row]:
    told = look.news.workers if look.news is not None else {}
    views = {view.entry.worker_id: view for view in look.views}
    ids = sorted({*told, *views}, key=_order)
    return [worker_row(one, views.get(one), told.get(one)) for one in ids]


def _order(worker_id: str) -> tuple[int, str, int, str]:
    """As requests go: prefill first; decode-2 before decode-10, and a slot's other side, decode-2b, behind it."""
    pool, _, rest = worker_id.rpartition("-")
    role = pool.rpartition(".")[2]
    place = POOLS.index(role) if role in POOLS else len(POOLS)
    number = rest.removesuffix("b")
    return (place, pool, int(number), rest) if number.isdecimal() else (place, worker_id, 0, "")


def _streams(looks: Sequence[FleetLook]) -> list[dict[str, Any]]:
    found = [(look.model, pair, handed) for look in looks for pair, handed in look.handed.items()]
    found.sort(key=lambda one: -one[2].num_prompt_tokens)
    return [
        {
            "fleet": model,
            "from": pair.prefill,
            "to": pair.decode,
            "num_requests": handed.num_requests,
            "num_prompt_tokens": handed.num_prompt_tokens,
        }
        for model, pair, handed in found[:MAX_STREAMS]
    ]


def _events(looks: Sequence[FleetLook]) -> list[dict[str, Any]]:
    found = [event_row(event) | {"fleet": look.model} for look in looks for event in look.events]
    return sorted(found, key=lambda event: event["at_s"])
