"""docs/metrics.md says of each metric what is exported: name, type, labels, unit and meaning; and leaves none out."""

import collections
import time

from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from baton.v1.worker_pb2 import ROLE_DECODE, Histogram, LinkMeasures, Measures, WorkerState
from cluster.contracts.finished import FinishedRequest
from cluster.doors.accounts import KeyMetrics
from cluster.ingress.metrics import Metrics
from cluster.ingress.tracing import observing
from cluster.router.counters import Counters
from cluster.router.workers import WorkerEntry, WorkerView
from tools.metrics_table import PAGE, exported, tables, written
from workers.spec import Role
from workers.telemetry import bounds
from workers.telemetry.described import Described, Kind
from workers.telemetry.page import text_of

UNITS = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio"}


def test_the_page_has_todays_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run `python -m tools.metrics_table`"
    assert all(f"<!-- table {name} -->" in page for name in tables())


def bars(of: tuple[float, ...]) -> Histogram:
    return Histogram(counts=[1] * (len(of) + 1), sum=1.0)


def worker() -> WorkerView:
    """One that has told of everything."""
    steps, link, gaps = bars(bounds.STEP_S), bars(bounds.LINK_S), bars(bounds.GAP_S)
    measures = Measures(
        prefill_step_s=steps,
        decode_step_s=steps,
        mixed_step_s=steps,
        draft_step_s=steps,
        batch_sequences=bars(bounds.BATCH_SEQUENCES),
        batch_tokens=bars(bounds.BATCH_TOKENS),
        queue_s=bars(bounds.QUEUE_S),
        prefill_s=bars(bounds.PREFILL_S),
        links=[
            LinkMeasures(
                transport="shm",
                bytes_sent=1,
                bytes_received=1,
                ticket_s=link,
                transfer_s=link,
                exposed_s=link,
                wait_s=gaps,
                idle_s=gaps,
            )
        ],
    )
    state = WorkerState(
        worker_id="decode-0",
        role=ROLE_DECODE,
        served_name="demo",
        num_blocks=4,
        num_states=2,
        drafted_by_place=[1],
        accepted_by_place=[1],
        measures=measures,
    )
    entry = WorkerEntry(worker_id="decode-0", incarnation="a", role=Role.DECODE, address="127.0.0.1:1")
    return WorkerView(entry=entry, state=state, age_s=0.0, up=True, measures=measures)


def used() -> Metrics:
    """An ingress that has counted everything."""
    metrics = Metrics(lambda: [worker()], counters=lambda: {"demo": Counters()}, vllm_names=True)
    for dropped in observing.DESCRIBED:
        Counter(dropped.name, dropped.text, registry=metrics.registry)
    keys = KeyMetrics(metrics.registry)
    keys.requests.labels("alice")
    keys.refused.labels("alice", "rate_limited")
    keys.tokens.labels("alice")
    now_s = time.monotonic()
    request = FinishedRequest(
        request_id="r",
        model="demo",
        route="chat",
        status="ok",
        arrived_s=now_s - 1.0,
        ended_s=now_s,
        num_choices=1,
        num_prompt_tokens=1,
        num_cached_tokens=1,
        num_output_tokens=2,
        ttft_s=0.1,
        tpot_s=0.1,
    )
    metrics.take(request, num_unfinished=0)
    return metrics


async def told() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Exported name -> type, meaning, labels."""
    state = worker().state
    assert state is not None
    text = (await used().text()).decode()
    alone = text_of(state).decode()
    found = {}
    for family in [*text_string_to_metric_families(text), *text_string_to_metric_families(alone)]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, family.documentation, tuple(sorted(labels)))
    return {name: one for name, one in found.items() if not name.endswith("_created")}


async def test_what_is_exported_is_what_is_described_and_the_other_way_round() -> None:
    described = {
        one.name: (str(one.kind), one.text, tuple(sorted(one.labels)))
        for one in exported()
        if not one.name.startswith("process_")  # whose words are the library's
    }
    found = {name: one for name, one in (await told()).items() if not name.startswith("process_")}
    assert {name: found.get(name) for name in described} == described
    assert set(found) == set(described)


async def test_what_a_process_tells_is_in_the_table() -> None:
    found = {name for name in await told() if name.startswith("process_")}
    assert found == {one.name for one in tables()["process"]}


def test_names_are_as_prometheus_wants_them() -> None:
    wrong = [one.name for one in exported() if not _is_well_named(one)]
    assert wrong == []
    assert [name for name, count in collections.Counter(one.name for one in exported()).items() if count > 1] == []


def _is_well_named(one: Described) -> bool:
    if one.name.startswith("vllm:"):
        return True  # others' names
    if (one.kind is Kind.COUNTER) is not one.name.endswith("_total"):
        return False
    return UNITS.get(one.unit, "") in one.name
