"""What a scrape says: of one replica, and of several."""

from collections.abc import Sequence
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from baton.v1.worker_pb2 import ROLE_DECODE, Histogram, LinkMeasures, Measures, WorkerState
from cluster.contracts.finished import FinishedRequest
from cluster.contracts.slo import SLO
from cluster.ingress.metrics import Families, Metrics
from cluster.ingress.telemetry.label_values import MAX_MODELS
from cluster.router.workers import WorkerEntry, WorkerView
from workers.spec import Role
from workers.telemetry.bounds import LINK_S

ENTRY = WorkerEntry(worker_id="decode-0", incarnation="a", role=Role.DECODE, address="127.0.0.1:1")


def finished(*, model: str = "demo", status: str = "ok", ttft_s: float | None = 0.1) -> FinishedRequest:
    return FinishedRequest(
        request_id="r",
        model=model,
        route="chat",
        status=status,
        arrived_s=0.0,
        ended_s=2.0,
        num_choices=1,
        num_prompt_tokens=30,
        num_cached_tokens=16,
        num_output_tokens=9,
        ttft_s=ttft_s,
        tpot_s=0.02,
    )


def view(state: WorkerState | None, *, up: bool = True, measures: Measures | None = None) -> WorkerView:
    return WorkerView(entry=ENTRY, state=state, age_s=7.5, up=up, measures=measures)


async def scraped(metrics: Metrics) -> str:
    return (await metrics.text()).decode()


async def test_the_only_replica_names_none() -> None:
    metrics = Metrics(list)
    metrics.requests.labels("chat", "ok", "demo").inc(3)
    assert 'baton_requests_total{model="demo",route="chat",status="ok"} 3.0' in await scraped(metrics)


async def test_several_replicas_are_told_apart_in_one_scrape_under_one_heading() -> None:
    a, b = Metrics(list), Metrics(list)
    a.of("demo").ttft.observe(0.3)
    b.of("demo").ttft.observe(0.3)
    b.of("demo").ttft.observe(0.3)

    async def gather() -> dict[str, Families]:
        return {"b": b.families(), "a": a.families()}

    text = await scraped(Metrics(list, gather))
    assert text.count("# TYPE baton_ttft_seconds histogram") == 1
    assert 'baton_ttft_seconds_count{model="demo",replica="a"} 1.0' in text
    assert 'baton_ttft_seconds_bucket{le="0.5",model="demo",replica="b"} 2.0' in text
    assert 'baton_requests_open{replica="a"} 0.0' in text


async def test_drafts_are_counted_by_their_place() -> None:
    state = WorkerState(
        worker_id="decode-0",
        role=ROLE_DECODE,
        served_name="demo",
        drafted_by_place=[9, 4],
        accepted_by_place=[6],
        drafts_per_decode=1.5,
        num_guess_hits=7,
        draft_workers_rest=True,
        draft_wait_s=0.5,
    )
    text = await scraped(Metrics(lambda: [view(state)]))
    own = 'role="decode",worker="decode-0"'
    assert f'baton_worker_draft_tokens_total{{model="demo",place="2",{own}}} 4.0' in text
    assert f'baton_worker_accepted_tokens_total{{model="demo",place="1",{own}}} 6.0' in text
    assert f'baton_worker_drafts_per_decode{{model="demo",{own}}} 1.5' in text
    assert f'baton_worker_guess_hits_total{{model="demo",{own}}} 7.0' in text
    assert f'baton_worker_draft_workers_rest{{model="demo",{own}}} 1.0' in text
    assert f'baton_worker_draft_wait_seconds_total{{model="demo",{own}}} 0.5' in text


async def test_links_are_told_by_what_carries_them() -> None:
    bars = Histogram(counts=[1] * (len(LINK_S) + 1), sum=3.0)
    link = LinkMeasures(transport="shm", bytes_sent=5, bytes_received=6, transfer_s=bars, ticket_s=bars, exposed_s=bars)
    state = WorkerState(worker_id="decode-0", role=ROLE_DECODE, served_name="demo")
    text = await scraped(Metrics(lambda: [view(state, measures=Measures(links=[link]))]))
    own = 'model="demo",role="decode",transport="shm",worker="decode-0"'
    assert f"baton_worker_kv_sent_bytes_total{{{own}}} 5.0" in text
    assert f"baton_worker_kv_received_bytes_total{{{own}}} 6.0" in text
    assert f"baton_worker_kv_exposed_seconds_sum{{{own}}} 3.0" in text


async def test_of_a_worker_that_is_gone_its_last_words_are_told_and_how_old_they_are() -> None:
    state = WorkerState(worker_id="decode-0", role=ROLE_DECODE, served_name="demo", num_running=3)
    text = await scraped(Metrics(lambda: [view(state, up=False)]))
    assert 'baton_worker_up{model="demo",role="decode",worker="decode-0"} 0.0' in text
    assert 'baton_worker_state_age_seconds{model="demo",role="decode",worker="decode-0"} 7.5' in text
    assert 'baton_worker_requests_running{model="demo",role="decode",worker="decode-0"} 3.0' in text


async def test_of_a_worker_that_has_said_nothing_only_that_is_told() -> None:
    text = await scraped(Metrics(lambda: [view(None, up=False)]))
    assert 'baton_worker_up{model="",role="decode",worker="decode-0"} 0.0' in text
    assert "baton_worker_blocks{" not in text


async def test_workers_of_two_versions_of_a_model_are_told_apart() -> None:
    state = WorkerState(worker_id="decode-0", role=ROLE_DECODE, served_name="demo")
    views = [replace(view(state), model=f"demo@{entry}") for entry in ("old", "new")]
    text = await scraped(Metrics(lambda: views, vllm_names=True))
    for entry in ("old", "new"):
        assert text.count(f'baton_worker_up{{model="demo@{entry}",role="decode",worker="decode-0"}} 1.0') == 1
        assert f'vllm:num_requests_running{{engine="decode-0",model_name="demo@{entry}"}} 0.0' in text


async def test_requests_count_against_the_slo_by_why_they_missed_it() -> None:
    metrics = Metrics(list, slo=SLO(ttft_s=0.5, tpot_s=0.05))
    for one in (
        finished(),
        finished(ttft_s=0.6),
        finished(status="overloaded", ttft_s=None),
        finished(status="invalid_request", ttft_s=None),  # no server could have served it
    ):
        metrics.take(one, num_unfinished=0)
    text = await scraped(metrics)
    for result in ("met", "slow_first_token", "failed"):
        assert f'baton_slo_requests_total{{model="demo",result="{result}"}} 1.0' in text
    assert "baton_slo_ttft_limit_seconds 0.5" in text
    assert 'baton_request_prompt_tokens_count{model="demo"} 4.0' in text


async def test_odd_names_do_not_make_series_without_end() -> None:
    metrics = Metrics(list)
    for number in range(1000):
        metrics.take(finished(model=f"adapter-{number}"), num_unfinished=1)
        metrics.requests.labels("chat", f"odd-{number}").inc()
        metrics.of(f"adapter-{number}").itl.observe(0.01)
    families = {each.name: each for each in text_string_to_metric_families(await scraped(metrics))}
    models = {sample.labels["model"] for sample in families["baton_prompt_tokens"].samples}
    assert len(models) == MAX_MODELS + 1
    assert "other" in models
    statuses = {sample.labels["status"] for sample in families["baton_requests"].samples}
    assert statuses == {"ok", "other"}
    slo = [sample for sample in families["baton_slo_requests"].samples if sample.labels["model"] == "other"]
    assert sum(sample.value for sample in slo if sample.name.endswith("_total")) == 1000 - MAX_MODELS


def vllm_lines(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line.startswith("vllm:")]


async def test_vllms_names_are_there_where_they_are_wanted() -> None:
    state = WorkerState(
        worker_id="decode-0",
        role=ROLE_DECODE,
        served_name="demo",
        num_blocks=10,
        num_free_blocks=4,
        num_running=2,
        num_prefix_query_tokens=8,
        num_drafts=3,
        drafted_by_place=[3, 3],
        accepted_by_place=[2, 1],
    )
    assert vllm_lines(await scraped(Metrics(lambda: [view(state)]))) == []
    metrics = Metrics(lambda: [view(state)], vllm_names=True)
    metrics.take(finished(), num_unfinished=1)
    metrics.of("demo").ttft.observe(0.3)
    lines = vllm_lines(await scraped(metrics))
    for line in (
        'vllm:time_to_first_token_seconds_bucket{le="0.5",model_name="demo"} 1.0',
        'vllm:prompt_tokens_total{model_name="demo"} 30.0',
        'vllm:generation_tokens_total{model_name="demo"} 0.0',
        'vllm:request_success_total{finished_reason="abort",model_name="demo"} 1.0',
        'vllm:kv_cache_usage_perc{engine="decode-0",model_name="demo"} 0.6',
        'vllm:num_requests_running{engine="decode-0",model_name="demo"} 2.0',
        'vllm:prefix_cache_queries_total{engine="decode-0",model_name="demo"} 8.0',
        'vllm:spec_decode_num_drafts_total{engine="decode-0",model_name="demo"} 3.0',
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="decode-0",model_name="demo",position="1"} 1.0',
    ):
        assert line in lines


def test_targets_are_where_workers_tell_their_own() -> None:
    state = WorkerState(worker_id="decode-0", role=ROLE_DECODE, served_name="demo", metrics_address="127.0.0.1:9")
    (target,) = Metrics(lambda: [view(state, up=False), view(None)]).targets()
    assert target["targets"] == ["127.0.0.1:9"]
    assert target["labels"]["__meta_baton_worker"] == "decode-0"


async def test_each_model_is_held_to_its_own_slo() -> None:
    metrics = Metrics(list, slo=SLO(ttft_s=1.0, tpot_s=1.0))
    for model, slo in (("quick", SLO(ttft_s=0.05, tpot_s=1.0)), ("other", None)):
        metrics.take(replace(finished(model=model), slo=slo), 0)
    text = await scraped(metrics)
    assert 'baton_slo_requests_total{model="quick",result="slow_first_token"} 1.0' in text
    assert 'baton_slo_requests_total{model="other",result="met"} 1.0' in text
