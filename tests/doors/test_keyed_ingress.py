"""Both doors of an ingress that wants keys: who is let in, to what, how often, and what is said to the others."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.errors import InternalError, OverloadedError
from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from cluster.doors.watched import Watched
from tests.doors.keyed import METRICS_TOKEN, Keyed, add_key, keyed_ingress, until

BODY = {"model": "demo", "prompt": "Once", "max_tokens": 4}


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    async with keyed_ingress(tmp_path / "keys.yaml") as made:
        yield made


async def generated(keyed: Keyed, key: str | None) -> str:
    """The status of a call over gRPC, and its trailing `retry-after` where it has one."""
    metadata = (("authorization", f"Bearer {key}"),) if key is not None else ()
    async with grpc.aio.insecure_channel(keyed.target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        call = stub.Generate(
            pb.GenerateRequest(prompt="Once", sampling=pb.SamplingParams(max_tokens=4)), metadata=metadata
        )
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return " ".join([error.code().name, str(trailers.get("retry-after", ""))]).strip()
    return "OK"


async def test_a_request_without_the_right_key_is_401_on_every_path_but_a_probes(keyed: Keyed) -> None:
    right = await keyed.add("alice")
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    paths = ["/v1/models", "/v1/models/demo", "/metrics", "/version", "/nothing", "/v1/completions/"]
    for key in (None, wrong, "x"):
        async with keyed.http(key) as http:
            for path in paths:
                reply = await http.get(path)
                assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error"), path
                assert reply.headers["www-authenticate"] == "Bearer"
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/completions/"):
                assert (await http.post(path, json=BODY)).status_code == 401, path
            for path in ("/", "/health", "/healthz"):
                assert (await http.get(path)).status_code == 200
        assert await generated(keyed, key) == "UNAUTHENTICATED"
    async with keyed.http(right) as http:
        assert (await http.post("/v1/completions", json=BODY)).status_code == 200
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == "demo"
        assert 'status="unauthenticated"' in (await http.get("/metrics")).text
    assert await generated(keyed, right) == "OK"
    assert not keyed.fake.requests[2:]  # one by HTTP, one by gRPC


async def test_grpc_health_needs_no_key_and_the_other_calls_do(keyed: Keyed) -> None:
    await keyed.add("alice")
    async with grpc.aio.insecure_channel(keyed.target) as channel:
        assert (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status == 1
        stub = inference_pb2_grpc.InferenceStub(channel)
        for call in (
            stub.ListModels(pb.ListModelsRequest()),
            stub.Tokenize(pb.TokenizeRequest(text="a")),
            stub.Detokenize(pb.DetokenizeRequest(token_ids=[5])),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_openai_client_with_its_key_works_and_without_raises_its_own_error(keyed: Keyed) -> None:
    key = await keyed.add("alice")
    async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as client:
        assert (await client.completions.create(**BODY)).choices[0].text  # type: ignore[call-overload]
    async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            await client.models.list()


async def test_a_key_for_other_models_is_403_and_sees_none(keyed: Keyed) -> None:
    key, both = await keyed.add("alice", models=["other"]), await keyed.add("bob", models=["other", "demo"])
    async with keyed.http(key) as http:
        reply = await http.post("/v1/completions", json=BODY)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "permission_denied")
        assert "alice is not for model 'demo'; it may use other" in reply.json()["error"]["message"]
        assert (await http.get("/v1/models")).json()["data"] == []
        assert (await http.get("/v1/models/demo")).status_code == 403
    async with keyed.http(both) as http:
        assert (await http.post("/v1/completions", json=BODY)).status_code == 200
    assert await generated(keyed, key) == "PERMISSION_DENIED"


async def test_a_key_over_its_requests_per_minute_is_429_with_a_time_to_come_back(keyed: Keyed) -> None:
    key, other = await keyed.add("alice", requests_per_minute=2), await keyed.add("bob")
    async with keyed.http(key) as http:
        codes = [(await http.post("/v1/completions", json=BODY)).status_code for _ in range(2)]
        assert codes == [200, 200]
        reply = await http.post("/v1/completions", json=BODY)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limited")
        assert 55 <= int(reply.headers["retry-after"]) <= 61
        assert (await http.get("/v1/models")).status_code == 200  # costs nothing
    answer, seconds = (await generated(keyed, key)).split()
    assert answer == "RESOURCE_EXHAUSTED"
    assert 50 <= float(seconds) <= 61
    assert await generated(keyed, other) == "OK"


async def test_a_key_runs_no_more_at_once_than_it_may_streams_and_lost_clients_included(keyed: Keyed) -> None:
    key = await keyed.add("alice", max_concurrent=1)
    keyed.fake.step_s = 0.05
    long = BODY | {"max_tokens": 100, "stream": True, "ignore_eos": True}
    async with keyed.http(key) as http:
        async with http.stream("POST", "/v1/completions", json=long) as stream:
            assert stream.status_code == 200
            reply = await http.post("/v1/completions", json=BODY)
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
            assert await generated(keyed, key) == "RESOURCE_EXHAUSTED 1"

        async def is_free() -> bool:
            return (await http.post("/v1/completions", json=BODY)).status_code == 200

        await until(is_free)  # the client has left


async def test_tokens_count_prompts_and_answers_and_the_next_request_waits(keyed: Keyed) -> None:
    key = await keyed.add("alice", tokens_per_minute=6)
    async with keyed.http(key) as http:
        usage = (await http.post("/v1/completions", json=BODY)).json()["usage"]

        async def is_over() -> bool:
            return (await http.post("/v1/completions", json=BODY)).status_code == 429

        await until(is_over)
        reply = await http.post("/v1/completions", json=BODY)
        assert "6 tokens per minute" in reply.json()["error"]["message"]
    async with keyed.http(await keyed.add("bob")) as http:
        text = (await http.get("/metrics")).text
    counted = next(line for line in text.splitlines() if line.startswith('baton_key_tokens_total{key="alice"}'))
    assert float(counted.split()[-1]) >= usage["total_tokens"]
    assert 'baton_key_refused_total{code="rate_limited",key="alice"}' in text


async def test_a_prompt_of_which_nothing_came_costs_no_tokens(keyed: Keyed) -> None:
    key = await keyed.add("alice", tokens_per_minute=6)
    body = BODY | {"prompt": "Once upon a time " * 10}
    keyed.fake.failure = OverloadedError("full")
    async with keyed.http(key) as http:
        for _ in range(3):
            reply = await http.post("/v1/completions", json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
        keyed.fake.failure = None
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        assert (await http.post("/v1/completions", json=body)).json()["error"]["code"] == "rate_limited"


async def test_a_bug_in_what_reads_the_file_again_is_told_to_serve(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(watched: Watched) -> bool:
        raise ValueError("a bug")

    async def is_told() -> bool:
        try:
            keyed.guard.check()
        except InternalError as error:
            return "a bug" in error.message
        return False

    assert not await is_told()
    monkeypatch.setattr(Watched, "changed", changed)
    await until(is_told)


async def test_a_changed_file_holds_within_seconds_and_a_broken_one_changes_nothing(
    keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await keyed.add("alice")
    bob = add_key(keyed.file, "bob")  # as another process would

    async def status(key: str) -> int:
        return (await http.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code

    async def has(key: str, code: int) -> bool:
        return await status(key) == code

    async def has_complained() -> bool:
        return bool(caplog.records)

    async with keyed.http(alice) as http:
        await until(lambda: has(bob, 200))
        good = keyed.file.read_text()
        with caplog.at_level(logging.ERROR, "cluster.doors.guard"):
            keyed.file.write_text(good.replace("name: alice", f"name: alice\n  key: {alice}"))
            await until(has_complained)
        assert "the keys of before stay" in caplog.text
        assert "keys[0].key" in caplog.text
        assert alice not in caplog.text
        assert (await status(alice), await status(bob)) == (200, 200)
        assert "baton_keys_stale 1.0" in (await http.get("/metrics")).text
        keyed.file.write_text(good.split("- name: bob")[0])
        await until(lambda: has(bob, 401))
        assert await status(alice) == 200
        assert "baton_keys_stale 0.0" in (await http.get("/metrics")).text


async def test_metrics_may_be_opened(tmp_path: Path) -> None:
    async with keyed_ingress(tmp_path / "keys.yaml", public_metrics=True) as keyed, keyed.http() as http:
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/version")).status_code == 401


async def test_the_metrics_token_opens_metrics_and_nothing_else(tmp_path: Path) -> None:
    async with keyed_ingress(tmp_path / "keys.yaml") as keyed, keyed.http(METRICS_TOKEN) as http:
        assert "baton_info" in (await http.get("/metrics")).text
        assert (await http.get("/metrics/targets")).json()[0]["labels"]["__meta_baton_worker"] == "decode-0"
        for path in ("/v1/models", "/version", "/metrics/other"):
            assert (await http.get(path)).status_code == 401
        assert (await http.post("/v1/completions", json={"prompt": "a"})).status_code == 401
        assert (await http.get("/metrics", headers={"Authorization": "Bearer of-prometheu"})).status_code == 401


async def test_names_are_labels_only_as_far_as_they_are_few(tmp_path: Path) -> None:
    async with keyed_ingress(tmp_path / "keys.yaml") as keyed:
        key = await keyed.add("alice")
        rows = "".join(f"- {{name: k{n}, sha256: '{n:064x}'}}\n" for n in range(300))
        keyed.file.write_text(keyed.file.read_text() + rows)
        await keyed.guard.reload()
        async with keyed.http(key) as http:
            text = (await http.get("/metrics")).text
    assert sum(line.startswith("baton_key_requests_total") for line in text.splitlines()) == 201
    assert 'baton_key_requests_total{key="other"}' in text


async def test_a_key_sees_the_requests_that_it_sent_itself(keyed: Keyed) -> None:
    mine, other = await keyed.add("mine"), await keyed.add("other")
    async with keyed.http(mine) as http:
        sent = await http.post("/v1/completions", json=BODY)
        path = f"/cluster/requests/{sent.json()['id']}"
        found = await http.get(path)
        assert (found.status_code, found.json()["key"]) == (200, "mine")
        assert len((await http.get("/cluster/requests")).json()["requests"]) == 1
    async with keyed.http(other) as http:
        assert (await http.get(path)).status_code == 404
        assert (await http.get("/cluster/requests")).json() == {"requests": []}
    async with keyed.http() as http:
        assert (await http.get(path)).status_code == 401
