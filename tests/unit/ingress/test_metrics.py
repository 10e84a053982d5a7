"""What a scrape says: of one replica, and of several."""

from cluster.ingress.metrics import Families, Metrics


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
