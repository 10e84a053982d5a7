"""Two ingress replicas behind one address: both work, both are counted, and either may die, and HAProxy too."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest

import baton
from bench.gaps import Round, Seen, one_round
from tests.cluster.served import ServedCluster

pytestmark = pytest.mark.timeout(300)
EXTRA = """
load_format: fake
fake_step_s: 0.01
http: {port: 0, replicas: 2}
"""
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    cluster = ServedCluster(extra=EXTRA)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def replica_pids(served: ServedCluster) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if "ray::ServeReplica" in " ".join(process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("BATON_HOME") == str(served.folder)
    ]


def answered(served: ServedCluster, route: str) -> dict[str, float]:
    """Replica -> requests of `route` that it has answered, in one scrape."""
    text = httpx.get(f"{served.http}/metrics", timeout=10).text
    pattern = rf'^baton_requests_total{{model="demo",replica="(\w+)",route="{route}",status="ok"}} (\S+)$'
    return {replica: float(count) for replica, count in re.findall(pattern, text, re.MULTILINE)}


def completions(served: ServedCluster, max_retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.http}/v1", api_key="none", max_retries=max_retries, timeout=60)


async def over_http(client: openai.AsyncOpenAI, seed: int) -> int:
    made = await client.completions.create(
        model="demo", prompt="Once", max_tokens=NUM_TOKENS, seed=seed, extra_body={"ignore_eos": True}
    )
    assert made.usage is not None
    return made.usage.completion_tokens


async def over_grpc(client: baton.AsyncClient, seed: int) -> int:
    made = await client.generate("Once", max_tokens=NUM_TOKENS, seed=seed, ignore_eos=True)
    return len(made.choices[0].token_ids)


async def test_requests_of_both_protocols_spread_over_both_and_one_scrape_counts_them_all(
    served: ServedCluster,
) -> None:
    async with completions(served) as http, baton.AsyncClient(served.grpc, timeout_s=60) as sdk:
        lengths = await asyncio.gather(*(over_http(http, seed) for seed in range(20)))
        lengths += await asyncio.gather(*(over_grpc(sdk, seed) for seed in range(20)))
    assert set(lengths) == {NUM_TOKENS}
    for route in ("completions", "grpc"):
        counts = answered(served, route)
        assert len(counts) == 2
        assert sum(counts.values()) == 20
        assert min(counts.values()) >= 5
    assert served.status()["num_ingress_replicas"] == 2
    assert "ingress 2/2" in " ".join(served.baton("status").stdout.split())


async def killed(served: ServedCluster, victim: str) -> Round:
    state = json.loads((served.folder / "cluster.json").read_text())
    return await one_round(victim, served.folder, state, after_s=4)


def ended(made: Round, *outcomes: str) -> list[Seen]:
    return [one for seen in made.seen.values() for one in seen if one.outcome in outcomes]


async def test_a_killed_haproxy_costs_what_it_carried_and_nobody_is_refused(served: ServedCluster) -> None:
    made = await killed(served, "haproxy")
    assert not ended(made, "refused")
    late = [one for one in ended(made, "lost", "cut") if one.begin_s > made.killed_s + 0.1]  # gRPC's old connection
    assert not late
    assert len(ended(made, "answered")) > 100


async def test_a_replica_that_dies_costs_the_streams_that_it_had_begun_alone(served: ServedCluster) -> None:
    made = await killed(served, "replica")
    assert made.replaced_s is not None
    assert not ended(made, "refused")
    # A stream that is reset loses a first message that gRPC has not handed out yet: it had begun, unseen.
    assert not [one for one in ended(made, "lost") if "RST_STREAM" not in one.error]
    assert not [one for one in ended(made, "lost", "cut") if one.begin_s > made.killed_s]
    served.wait("both replicas", lambda workers: served.status()["num_ingress_replicas"] == 2)


async def test_a_replica_that_dies_costs_no_request_that_is_sent_again(served: ServedCluster) -> None:
    before = replica_pids(served)
    async with completions(served, 5) as http, baton.AsyncClient(served.grpc, timeout_s=60, max_retries=5) as sdk:

        async def later(index: int) -> int:
            await asyncio.sleep(index * 0.02)
            return await (over_http(http, index) if index % 2 else over_grpc(sdk, index))

        requests = [asyncio.create_task(later(index)) for index in range(100)]
        await requests[20]
        assert not all(request.done() for request in requests)
        os.kill(before[0], signal.SIGKILL)
        assert set(await asyncio.gather(*requests)) == {NUM_TOKENS}
    served.wait("both replicas", lambda workers: served.status()["num_ingress_replicas"] == 2)
    assert set(replica_pids(served)) != set(before)
    served.wait("all blocks free", lambda workers: all(one["num_running"] == 0 for one in workers.values()))


async def test_a_client_that_does_not_try_again_is_told_that_it_may(served: ServedCluster) -> None:
    async with completions(served) as http:
        stream = await http.completions.create(model="demo", prompt="Once", max_tokens=400, stream=True)
        await anext(aiter(stream))
        requests = [asyncio.create_task(over_http(http, seed)) for seed in range(20)]
        await requests[0]
        for pid in replica_pids(served):
            os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*requests, over_http(http, 20), return_exceptions=True)
        with pytest.raises(openai.APIError):
            await anext(chunk async for chunk in stream if chunk.choices and chunk.choices[0].finish_reason)
    lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, openai.APIConnectionError | openai.InternalServerError) for error in lost), lost
    assert all(error.status_code == 503 for error in lost if isinstance(error, openai.APIStatusError)), lost
    served.wait("both replicas", lambda workers: served.status()["num_ingress_replicas"] == 2)
