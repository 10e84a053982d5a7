"""What the backends send and note, against scripted servers over loopback."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from baton.errors import UnavailableError
from baton.v1 import inference_pb2 as pb
from cluster.load.backend import Backend, Sampling, ServedModel
from cluster.load.grpc_backend import GrpcBackend
from cluster.load.openai_backend import OpenAIBackend
from cluster.load.record import Record
from cluster.load.requests import LoadRequest, Segment, token_ids
from tests import grpc_server as fake_grpc
from tests import http_server as fake_http
from tests.grpc_server import FakeGrpcServer
from tests.http_server import FakeOpenAIServer, chat_chunk, chunk, usage

REQUEST = LoadRequest(index=0, segments=(Segment(key=(0,), length=7),), output_len=4)


def _sampling(*, ignore_eos: bool = True, timeout_s: float = 20.0) -> Sampling:
    return Sampling(model="fake", seed=0, vocab_size=500, temperature=0.0, ignore_eos=ignore_eos, timeout_s=timeout_s)


async def _send(backend: Backend, request: LoadRequest = REQUEST, sampling: Sampling | None = None) -> Record:
    record = Record(index=0, due_s=0.0, sent_s=time.perf_counter())
    try:
        await backend.send(backend.encode(request, sampling or _sampling()), record)
    finally:
        await backend.close()
    return record


def _openai(http: FakeOpenAIServer, *, is_chat: bool = False) -> OpenAIBackend:
    return OpenAIBackend(http.url, is_chat=is_chat)


async def test_completions_are_sent_token_ids_and_every_token_is_timed(http: FakeOpenAIServer) -> None:
    http.interval_s = 0.001
    record = await _send(_openai(http))
    assert http.bodies[0] == {
        "model": "fake",
        "prompt": token_ids(REQUEST, seed=0, vocab_size=500),
        "max_tokens": 4,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    assert record.error == ""
    assert (record.prompt_tokens, record.output_tokens) == (7, 4)
    written_s = http.sent_s[0][:4]  # the fifth event is the usage
    assert len(record.token_s) == 4
    assert all(noted_s >= sent_s for noted_s, sent_s in zip(record.token_s, written_s, strict=True))
    assert record.ttft_s == record.token_s[0] - record.sent_s


async def test_texts_and_eos_are_left_as_asked(http: FakeOpenAIServer) -> None:
    request = LoadRequest(index=0, text="Once upon a time", output_len=2)
    record = await _send(_openai(http), request, _sampling(ignore_eos=False))
    assert http.bodies[0]["prompt"] == "Once upon a time"
    assert "ignore_eos" not in http.bodies[0]
    assert record.prompt_tokens == 4


async def test_chats_are_sent_words_and_the_opening_role_is_no_token(http: FakeOpenAIServer) -> None:
    record = await _send(_openai(http, is_chat=True))
    content = http.bodies[0]["messages"][0]["content"]
    assert len(content.split()) == 7
    assert (len(record.token_s), record.output_tokens, record.error) == (4, 4, "")


@pytest.mark.parametrize(
    ("is_chat", "events", "num_tokens"),
    [
        (False, [chunk("a"), chunk(""), chunk("b"), chunk("", "stop")], 3),
        (False, [chunk("", "stop")], 1),
        (False, [chunk("a"), chunk("b", "length")], 2),
        (True, [chat_chunk({"role": "assistant", "content": ""}), chat_chunk({}, "stop")], 1),
        (True, [chat_chunk({"role": "assistant", "content": "a"}), chat_chunk({}, "stop")], 1),
        (True, [chat_chunk({"content": ""}), chat_chunk({"content": "b"}, "stop")], 2),
    ],
)
async def test_events_that_only_open_or_end_the_answer_are_no_tokens(
    http: FakeOpenAIServer, is_chat: bool, events: list[Any], num_tokens: int
) -> None:
    http.scripts.append([*events, usage(7, num_tokens)])
    record = await _send(_openai(http, is_chat=is_chat))
    assert (len(record.token_s), record.error) == (num_tokens, "")


async def test_without_usage_the_events_are_counted(http: FakeOpenAIServer) -> None:
    http.scripts.append([chunk("a"), chunk("b", "length")])
    assert (await _send(_openai(http))).output_tokens == 2


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([fake_http.Fail(429, "the queue is full")], "HTTP 429: the queue is full"),
        ([chunk("a"), {"error": {"message": "worker lost"}}], "worker lost"),
        ([chunk("a"), fake_http.Break()], "connection lost: "),
        ([], "the stream ended without a token"),
        ([{"choices": [], "usage": {"prompt_tokens": 1}}], "malformed event: KeyError('completion_tokens')"),
    ],
    ids=["refused", "failed", "cut", "empty", "malformed"],
)
async def test_a_failed_completion_says_why(http: FakeOpenAIServer, script: list[Any], error: str) -> None:
    http.scripts.append(script)
    assert (await _send(_openai(http))).error.startswith(error)


async def test_a_completion_past_its_deadline_fails_and_is_dropped(http: FakeOpenAIServer) -> None:
    http.scripts.append([chunk("a"), fake_http.Hang()])
    record = await _send(_openai(http), sampling=_sampling(timeout_s=0.2))
    assert record.error == "no end within 0.2 s"
    assert await asyncio.to_thread(http.cancelled.wait, 10)


async def test_the_served_models_are_listed(http: FakeOpenAIServer, grpc_server: FakeGrpcServer) -> None:
    async with aclosing(_Closing(_openai(http))) as closing:
        assert await closing.backend.models() == [ServedModel(id="fake", max_model_len=2048, vocab_size=500)]
    async with aclosing(_Closing(GrpcBackend(grpc_server.target))) as closing:
        assert await closing.backend.models() == [ServedModel(id="fake", max_model_len=2048, vocab_size=500)]


class _Closing:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def aclose(self) -> None:
        await self.backend.close()


async def test_something_else_than_a_model_list_is_named(http: FakeOpenAIServer) -> None:
    http.models = {"models": []}
    async with aclosing(_Closing(_openai(http))) as closing:
        with pytest.raises(UnavailableError, match="gave no list of models"):
            await closing.backend.models()


async def test_no_server_is_named_with_the_fix() -> None:
    with FakeOpenAIServer() as stopped:
        url = stopped.url
    async with aclosing(_Closing(OpenAIBackend(url, is_chat=False))) as closing:
        with pytest.raises(UnavailableError, match=f"no server answers at {url}; start one with `baton up`"):
            await closing.backend.models()


async def test_grpc_requests_carry_token_ids_and_every_message_is_timed(grpc_server: FakeGrpcServer) -> None:
    record = await _send(GrpcBackend(grpc_server.target))
    request = grpc_server.requests[0]
    assert list(request.prompt_token_ids.ids) == token_ids(REQUEST, seed=0, vocab_size=500)
    assert (request.model, request.sampling.max_tokens, request.sampling.ignore_eos) == ("fake", 4, True)
    assert request.sampling.temperature == 0.0
    assert (len(record.token_s), record.prompt_tokens, record.output_tokens, record.error) == (4, 7, 4, "")


async def test_several_tokens_in_a_grpc_message_are_one_time(grpc_server: FakeGrpcServer) -> None:
    pair = fake_grpc.token(0)
    pair.deltas[0].token_ids.append(101)
    grpc_server.scripts.append([pair, fake_grpc.token(2, finish=pb.FINISH_REASON_LENGTH), fake_grpc.last(7, 3)])
    record = await _send(GrpcBackend(grpc_server.target))
    assert (len(record.token_s), record.output_tokens, record.error) == (2, 3, "")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([fake_grpc.Fail(status=grpc.StatusCode.RESOURCE_EXHAUSTED, details="full")], "overloaded: full"),
        ([fake_grpc.token(0), fake_grpc.Fail(status=grpc.StatusCode.UNAVAILABLE, details="lost")], "unavailable: lost"),
        ([fake_grpc.token(0)], "the stream ended early: 1 tokens came, usage says 0"),
        ([fake_grpc.Hang()], "deadline_exceeded"),
    ],
    ids=["refused", "failed", "cut", "late"],
)
async def test_a_failed_grpc_request_says_why(
    grpc_server: FakeGrpcServer, script: Sequence[fake_grpc.Step], error: str
) -> None:
    grpc_server.scripts.append(list(script))
    sampling = _sampling(timeout_s=0.3 if error == "deadline_exceeded" else 20.0)
    record = await _send(GrpcBackend(grpc_server.target), sampling=sampling)
    assert record.error.startswith(error)
    assert len(grpc_server.requests) == 1
