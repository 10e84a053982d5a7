"""The asyncio client against a scripted server over loopback."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

import baton
from tests.grpc_server import Fail, FakeGrpcServer, Hang, token


@pytest.fixture
async def client(server: FakeGrpcServer) -> AsyncIterator[baton.AsyncClient]:
    async with baton.AsyncClient(server.target, timeout_s=20) as running:
        yield running


async def test_generate_returns_the_whole_answer(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    completion = await client.generate("Once upon", max_tokens=3, temperature=0.0)
    assert completion.text == "t0 t1 t2 "
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage == baton.Usage(prompt_tokens=2, completion_tokens=3, cached_tokens=0)
    assert server.requests[0].sampling.temperature == 0.0


async def test_stream_yields_each_delta_and_then_knows_the_usage(client: baton.AsyncClient) -> None:
    async with client.stream([1, 2], max_tokens=2) as stream:
        assert [delta.text async for delta in stream] == ["t0 ", "t1 "]
        assert stream.usage is not None
        assert stream.usage.prompt_tokens == 2
        assert stream.request_id == "r1"


async def test_requests_run_side_by_side(client: baton.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.generate("Once", max_tokens=n) for n in range(1, 9)))
    assert [len(answer.choices[0].token_ids) for answer in answers] == list(range(1, 9))


async def test_leaving_a_stream_cancels_the_request(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.scripts.append([token(0), Hang()])
    async with client.stream("Once") as stream:
        assert (await anext(stream)).text == "t0 "
    assert await asyncio.to_thread(server.cancelled.wait, 10)
    assert [delta async for delta in stream] == []


async def test_closing_a_stream_in_another_task_ends_it_for_who_reads(
    client: baton.AsyncClient, server: FakeGrpcServer
) -> None:
    server.scripts.append([Hang()])
    stream = client.stream("Once")

    async def read() -> list[baton.Delta]:
        return [delta async for delta in stream]

    reading = asyncio.create_task(read())
    assert await asyncio.to_thread(server.received.wait, 10)
    stream.close()
    assert await asyncio.wait_for(reading, 10) == []


async def test_leaving_while_the_server_writes_cancels_the_request(
    client: baton.AsyncClient, server: FakeGrpcServer
) -> None:
    big = token(1)
    big.deltas[0].text = "x" * 1_000_000
    server.scripts.append([token(0), *[big] * 100])
    async with client.stream("Once") as stream:
        assert (await anext(stream)).text == "t0 "
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_cancelling_the_task_cancels_the_request(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.scripts.append([Hang()])
    task = asyncio.create_task(client.generate("Once"))
    assert await asyncio.to_thread(server.received.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_a_deadline_is_kept(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.scripts.append([Hang()])
    with pytest.raises(baton.DeadlineExceededError):
        await client.generate("Once", timeout_s=0.2)
    assert 0 < server.requests[0].timeout_s <= 0.2


async def test_retryable_failures_before_the_first_token_are_tried_again(
    client: baton.AsyncClient, server: FakeGrpcServer
) -> None:
    server.scripts.append([Fail(status=grpc.StatusCode.UNAVAILABLE)])
    server.scripts.append([Fail(status=grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=(("retry-after-ms", "1"),))])
    assert (await client.generate("Once", max_tokens=1)).text == "t0 "
    assert len(server.requests) == 3


async def test_nothing_is_sent_again_after_the_first_token(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.scripts.append([token(0), Fail(status=grpc.StatusCode.UNAVAILABLE)])
    async with client.stream("Once") as stream:
        assert (await anext(stream)).text == "t0 "
        with pytest.raises(baton.UnavailableError):
            await anext(stream)
    assert len(server.requests) == 1


async def test_a_stream_without_its_final_event_is_an_error(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.scripts.append([])
    with pytest.raises(baton.InternalError, match="no final event"):
        await client.generate("Once")


async def test_unary_calls_work_and_are_tried_again(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    server.unary_scripts.append(Fail(status=grpc.StatusCode.UNAVAILABLE))
    assert await client.tokenize("On") == [79, 110]
    assert await client.detokenize([79, 110]) == "On"
    assert await client.models() == [baton.Model(id="fake", max_model_len=2048, vocab_size=500)]
    assert await client.health() == "serving"
    assert len(server.requests) == 4


async def test_an_error_names_what_the_server_refused(client: baton.AsyncClient, server: FakeGrpcServer) -> None:
    metadata = (("baton-error-code", "invalid_request"), ("baton-error-field", "n"))
    server.scripts.append([Fail(status=grpc.StatusCode.INVALID_ARGUMENT, details="n=9 is over 8", metadata=metadata)])
    with pytest.raises(baton.InvalidRequestError, match="n=9 is over 8") as caught:
        await client.generate("Once", n=9)
    assert caught.value.field == "n"


async def test_no_server_names_the_address_and_the_fix(dead_target: str) -> None:
    async with baton.AsyncClient(dead_target, timeout_s=20) as client:
        with pytest.raises(baton.UnavailableError, match=f"no server answers at {dead_target}"):
            await client.models()
