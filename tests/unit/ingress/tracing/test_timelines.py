"""A request over real workers with the fake model: what is told of it over HTTP, and logged."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest

from baton.v1 import inference_pb2, inference_pb2_grpc
from cluster.ingress.http_api import build_app
from cluster.ingress.openapi.timelines import RequestList, RequestTimeline
from cluster.ingress.service import Service
from cluster.ingress.tracing.access import log_access
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.visit import Visits
from cluster.logs.fields import taken_apart
from tests.unit.ingress.fakes import serving
from tests.unit.ingress.servicer import Servicer
from tests.unit.ingress.tracing.served import serving_workers, worker
from workers.spec import Role

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT = {"messages": [{"role": "user", "content": "hello there " * 20}], "max_tokens": 12, "ignore_eos": True}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    visits = Visits(1.0)
    visits.on_left.append(log_access)
    workers = [worker(Role.PREFILL, step_s=0.002), worker(Role.DECODE, step_s=0.002, speculation="ngram")]
    async with serving_workers(workers, visits=visits, ring=Ring(3)) as service:
        yield service


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(build_app(service)) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


async def lines(caplog: pytest.LogCaptureFixture, count: int) -> list[dict[str, Any]]:
    """Of the access log, once there are so many: a request's is written when its client has the answer."""
    async with asyncio.timeout(10):
        while len(caplog.records) < count:  # noqa: ASYNC110, a log wakes nobody
            await asyncio.sleep(0.01)
    assert {taken_apart(record)[0] for record in caplog.records} == {"request ended"}
    return [taken_apart(record)[1] for record in caplog.records]


async def timeline(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    reply = await http.get(f"/cluster/requests/{name}")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    RequestTimeline.model_validate(found)
    return found


async def test_a_request_is_followed_from_its_arrival_to_its_end(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="baton.access")
    headers = {"x-request-id": "mine", "traceparent": PARENT}
    reply = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    answer_id = reply.json()["id"]
    assert reply.headers["traceresponse"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    found = await timeline(http, answer_id)
    assert found == await timeline(http, "mine") == await timeline(http, answer_id.removeprefix("chatcmpl-"))
    assert (found["status"], found["x_request_id"], found["trace_id"]) == ("ok", "mine", PARENT.split("-")[1])
    assert [phase["name"] for phase in found["phases"]] == ["receive", "parse", "render", "tokenize"]
    (prompt,) = found["prompts"]
    (attempt,) = prompt["attempts"]
    assert (attempt["prefill"], attempt["decode"], attempt["end"]) == ("prefill-0", "decode-0", "ok")
    read, written = sorted(attempt["workers"], key=lambda one: str(one["worker"]), reverse=True)
    assert sum(chunk["num_tokens"] for chunk in read["chunks"]) == prompt["num_tokens"]
    assert [chunk["num_context_tokens"] for chunk in read["chunks"]] == list(range(0, prompt["num_tokens"], 32))
    assert (written["reads"], written["num_bytes"] > 0) == (False, True)
    assert read["offered_s"] <= written["granted_s"] <= written["arrived_s"]
    assert attempt["transfer"]["num_bytes"] == written["num_bytes"]
    (choice,) = prompt["choices"]
    assert (choice["num_tokens"], choice["finish_reason"]) == (12, "length")
    assert sum(row[1] for row in choice["outputs"]) == 12
    moments = [
        0.0,
        found["phases"][-1]["end_s"],
        prompt["queued_s"],
        prompt["admitted_s"],
        attempt["sent_s"],
        read["received_s"],
        read["scheduled_s"],
        read["chunks"][-1]["end_s"],
        choice["first_token_s"],
        choice["last_token_s"],
        found["e2e_s"],
    ]
    assert moments == sorted(moments)
    line = (await lines(caplog, 4))[0]  # those of the looks come after it
    expected = {
        "request_id": "mine",
        "trace_id": PARENT.split("-")[1],
        "status": 200,
        "route": "chat",
        "outcome": "ok",
        "num_output_tokens": 12,
        "prefill": "prefill-0",
        "decode": "decode-0",
        "num_attempts": 1,
    }
    assert expected.items() <= line.items()
    assert "hello" not in json.dumps(line)


async def test_guesses_that_were_right_are_counted_where_they_were(http: httpx.AsyncClient) -> None:
    body = CHAT | {"max_tokens": 60, "temperature": 0, "logit_bias": {"600": 100}}  # it repeats itself
    found = await timeline(http, (await http.post("/v1/chat/completions", json=body)).json()["id"])
    (choice,) = found["prompts"][0]["choices"]
    drafted = [row for row in choice["outputs"] if row[2]]
    assert drafted
    assert all(row[3] == row[1] - 1 for row in drafted)
    assert found["num_accepted_tokens"] == sum(row[3] for row in choice["outputs"]) > 0


async def test_lists_are_bounded_by_what_is_kept(http: httpx.AsyncClient) -> None:
    ids = []
    for number in range(5):
        body = {"prompt": "a b c", "max_tokens": 1 + 4 * (number == 3)}
        ids.append((await http.post("/v1/completions", json=body)).json()["id"].removeprefix("cmpl-"))
    last = (await http.get("/cluster/requests")).json()
    RequestList.model_validate(last)
    assert [row["request_id"] for row in last["requests"]] == ids[:1:-1]
    slow = (await http.get("/cluster/requests?order=slowest&limit=2")).json()["requests"]
    assert [row["e2e_s"] for row in slow] == sorted((row["e2e_s"] for row in last["requests"]), reverse=True)[:2]
    gone = await http.get(f"/cluster/requests/{ids[0]}")
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "request_not_found"


@pytest.mark.parametrize(
    ("query", "told"),
    [("limit=0", "limit is 0"), ("limit=x", "limit is"), ("order=best", 'order is "best"'), ("lmit=3", "lmit is no")],
)
async def test_a_list_that_makes_no_sense_is_refused_by_name(http: httpx.AsyncClient, query: str, told: str) -> None:
    reply = await http.get(f"/cluster/requests?{query}")
    assert reply.status_code == 400
    assert told in reply.json()["error"]["message"]


async def test_errors_have_a_line_too_and_probes_have_none(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="baton.access")
    await http.get("/health")
    await http.get("/metrics")
    await http.post("/v1/completions", json={"prompt": "x", "model": "other"})
    await http.get("/no%20such%0Apath")
    told = [(line["status"], line["path"], line.get("error")) for line in await lines(caplog, 2)]
    assert told == [(404, "/v1/completions", "model_not_found"), (404, "/no?such?path", None)]


async def test_grpc_calls_are_followed_alike(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(Servicer(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    caplog.set_level(logging.INFO, logger="baton.access")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        request = inference_pb2.GenerateRequest(prompt="a b", sampling=inference_pb2.SamplingParams(max_tokens=2))
        call = stub.Generate(request, metadata=(("x-request-id", "mine"), ("traceparent", PARENT)))
        assert [one async for one in call]
        trailing = dict(await call.trailing_metadata())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Tokenize(inference_pb2.TokenizeRequest())
    await server.stop(None)
    assert trailing["x-request-id"] == "mine"
    assert trailing["traceresponse"].split("-")[1] == PARENT.split("-")[1]
    found = service.ring.find("mine")
    assert found is not None
    assert (found.route, found.status, found.num_output_tokens) == ("grpc", "ok", 2)
    lines = [taken_apart(record)[1] for record in caplog.records]
    assert [(line["method"], line["status"]) for line in lines] == [
        ("Generate", "OK"),
        ("Tokenize", "INVALID_ARGUMENT"),
    ]
