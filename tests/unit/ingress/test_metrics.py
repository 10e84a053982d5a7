"""What a scrape says: of one replica, and of several."""

from types import SimpleNamespace
from typing import cast

from baton.v1.worker_pb2 import WorkerState
from cluster.ingress.metrics import Families, Metrics
from cluster.router.workers import WorkerView
from workers.spec import Role


async def test_the_only_replica_names_none() -> None:
    metrics = Metrics(list)
    metrics.requests.labels("chat", "ok").inc(3)
    assert 'baton_requests_total{route="chat",status="ok"} 3.0' in (await metrics.text()).decode()


async def test_several_replicas_are_told_apart_in_one_scrape_under_one_heading() -> None:
    a, b = Metrics(list), Metrics(list)
    a.ttft.observe(0.3)
    b.ttft.observe(0.3)
    b.ttft.observe(0.3)

    async def gather() -> dict[str, Families]:
        return {"b": b.families(), "a": a.families()}

    text = (await Metrics(list, gather).text()).decode()
    assert text.count("# TYPE baton_ttft_seconds histogram") == 1
    assert 'baton_ttft_seconds_count{replica="a"} 1.0' in text
    assert 'baton_ttft_seconds_bucket{le="0.5",replica="b"} 2.0' in text
    assert 'baton_requests_open{replica="a"} 0.0' in text


async def test_drafts_are_counted_by_their_place() -> None:
    state = WorkerState(
        drafted_by_place=[9, 4],
        accepted_by_place=[6],
        drafts_per_decode=1.5,
        num_cut_draft_tokens=3,
        num_guess_hits=7,
        num_guess_misses=2,
        num_draft_peers=1,
        draft_wait_s=0.5,
        draft_workers_rest=True,
    )
    entry = SimpleNamespace(worker_id="decode-0", role=Role.DECODE)
    view = cast(WorkerView, SimpleNamespace(entry=entry, state=state, up=True))
    text = (await Metrics(lambda: [view]).text()).decode()
    assert 'baton_worker_draft_tokens_total{place="2",role="decode",worker="decode-0"} 4.0' in text
    assert 'baton_worker_accepted_tokens_total{place="1",role="decode",worker="decode-0"} 6.0' in text
    assert 'baton_worker_draft_tokens_cut_total{role="decode",worker="decode-0"} 3.0' in text
    assert 'baton_worker_drafts_per_decode{role="decode",worker="decode-0"} 1.5' in text
    assert 'baton_worker_guess_hits_total{role="decode",worker="decode-0"} 7.0' in text
    assert 'baton_worker_guess_misses_total{role="decode",worker="decode-0"} 2.0' in text
    assert 'baton_worker_draft_peers{role="decode",worker="decode-0"} 1.0' in text
    assert 'baton_worker_draft_workers_rest{role="decode",worker="decode-0"} 1.0' in text
    assert 'baton_worker_draft_wait_seconds_total{role="decode",worker="decode-0"} 0.5' in text
