"""The gRPC routes behind a plain grpc.aio server."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.errors import OverloadedError
from baton.v1 import inference_pb2 as pb
from cluster.ingress import grpc_api
from cluster.ingress.app import IngressReplica
from cluster.ingress.grpc_api import GRPCRoutes
from cluster.ingress.services import Services
from cluster.router.table import Health
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, demo_tokenizer


async def test_generate_streams_deltas_and_ends_with_usage(stub: Any, fake: FakeDispatcher) -> None:
    fake.num_cached_tokens = 1
    request = pb.GenerateRequest(prompt="Once", sampling=pb.SamplingParams(n=2, logprobs=1))
    responses = [response async for response in stub.Generate(request)]
    texts, reasons = ["", ""], [0, 0]
    for response in responses[:-1]:
        assert not response.HasField("usage")
        for delta in response.deltas:
            texts[delta.choice] += delta.text
            reasons[delta.choice] = delta.finish_reason
            assert all(entry.sampled.text and entry.top[0].text for entry in delta.logprobs)
    assert texts == ["The best of times 0.", "The best of times 1."]
    assert reasons == [pb.FINISH_REASON_STOP] * 2
    usage = responses[-1].usage
    num_tokens = sum(len(delta.token_ids) for response in responses for delta in response.deltas)
    assert (usage.completion_tokens, usage.cached_tokens) == (num_tokens, 1)
    assert len({response.request_id for response in responses}) == 1


async def test_token_ids_and_chats_are_prompts_too(stub: Any, fake: FakeDispatcher) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    for request in (
        pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[7, 8])),
        pb.GenerateRequest(chat=chat, model="demo"),
    ):
        assert [response async for response in stub.Generate(request)]
    tokens = (await stub.Tokenize(pb.TokenizeRequest(chat=chat))).token_ids
    assert [list(request.prompt_token_ids) for request in fake.requests] == [[7, 8], list(tokens)]


@pytest.mark.parametrize(
    ("request_", "status", "field", "message"),
    [
        (pb.GenerateRequest(prompt=""), "INVALID_ARGUMENT", "prompt", "prompt is empty"),
        (pb.GenerateRequest(), "INVALID_ARGUMENT", "input", "set prompt, prompt_token_ids or chat"),
        (pb.GenerateRequest(prompt="a", model="other"), "NOT_FOUND", "model", "other"),
        (pb.GenerateRequest(prompt="a", timeout_s=-1), "INVALID_ARGUMENT", "timeout_s", "timeout_s is -1"),
        (
            pb.GenerateRequest(prompt="a", sampling=pb.SamplingParams(temperature=-1)),
            "INVALID_ARGUMENT",
            "temperature",
            "temperature is -1; it must be 0 (greedy) or more",
        ),
        (
            pb.GenerateRequest(prompt="a", sampling=pb.SamplingParams(max_tokens=0)),
            "INVALID_ARGUMENT",
            "max_tokens",
            "max_tokens is 0",
        ),
        (
            pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[1] * 3000)),
            "INVALID_ARGUMENT",
            "prompt",
            "prompt has 3000 tokens",
        ),
        (
            pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="king")])),
            "INVALID_ARGUMENT",
            "messages",
            'role is "king"',
        ),
    ],
)
async def test_a_bad_request_has_the_same_message_as_over_http(
    stub: Any, request_: Any, status: str, field: str, message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(request_).read()
    assert caught.value.code() == grpc.StatusCode[status]
    assert message in caught.value.details()
    assert dict(caught.value.trailing_metadata())["baton-error-field"] == field


async def test_a_shed_request_says_when_to_come_back(stub: Any, fake: FakeDispatcher) -> None:
    fake.failure = OverloadedError("full", retry_after_s=2.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(prompt="a")).read()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(caught.value.trailing_metadata())
    assert (metadata["baton-error-code"], metadata["retry-after"]) == ("overloaded", "2.5")


async def test_a_request_that_is_cancelled_frees_its_workers(stub: Any, fake: FakeDispatcher) -> None:
    fake.step_s = 0.02
    call = stub.Generate(pb.GenerateRequest(prompt="a"))
    await call.read()
    call.cancel()
    for _ in range(100):
        if fake.closed:
            break
        await asyncio.sleep(0.01)
    assert fake.closed == [fake.requests[0].request_id]


async def test_tokens_come_back_as_text_and_models_are_listed(stub: Any) -> None:
    reply = await stub.Tokenize(pb.TokenizeRequest(text="Once upon"))
    assert reply.max_model_len == 2048
    back = await stub.Detokenize(pb.DetokenizeRequest(token_ids=reply.token_ids))
    assert back.text == "Once upon"
    (model,) = (await stub.ListModels(pb.ListModelsRequest())).models
    assert (model.id, model.max_model_len, model.vocab_size) == ("demo", 2048, demo_tokenizer().vocab_size)
    with pytest.raises(grpc.aio.AioRpcError, match="token id 5000"):
        await stub.Detokenize(pb.DetokenizeRequest(token_ids=[5000]))


async def test_tokenizing_nothing_is_refused_and_an_empty_text_has_no_tokens(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="input is missing; set text or chat"):
        await stub.Tokenize(pb.TokenizeRequest())
    assert (await stub.Tokenize(pb.TokenizeRequest(text=""))).token_ids == []


async def test_standard_health_follows_the_dispatchers(channel: grpc.aio.Channel, fake: FakeDispatcher) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "baton.v1.Inference"):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    fake.healthy = Health(ok=False, reason="pool decode is empty")
    reply = await stub.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert (await stub.Watch(health_pb2.HealthCheckRequest()).read()).status == reply.status


async def test_one_watch_too_many_is_told_the_status_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_api, "MAX_WATCHES", 1)
    routes, request = GRPCRoutes(demo_service()[0]), health_pb2.HealthCheckRequest()
    first = routes.watch(request)
    assert (await anext(first)).status == 1
    assert [response.status async for response in routes.watch(request)] == [1]
    await first.aclose()
    second = routes.watch(request)
    await anext(second)
    waiting = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_watch_ends_with_its_replica() -> None:
    services = Services.of_one(demo_service()[0])
    services.leaving.set()
    assert [response.status async for response in GRPCRoutes(services).watch(health_pb2.HealthCheckRequest())] == [1]


async def test_every_method_of_the_registered_services_is_there(channel: grpc.aio.Channel) -> None:
    """Serve looks them up by name; one that is missing would be told with the names of all others."""
    services = (pb.DESCRIPTOR, health_pb2.DESCRIPTOR)
    methods = [method for file in services for service in file.services_by_name.values() for method in service.methods]
    assert {method.name for method in methods} <= set(dir(IngressReplica))
    statuses = (await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())).statuses
    assert {name: one.status for name, one in statuses.items()} == {"": 1, "baton.v1.Inference": 1}
