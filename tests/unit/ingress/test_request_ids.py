import logging

import grpc
import httpx
import pytest

from baton.errors import UnavailableError
from baton.v1 import inference_pb2, inference_pb2_grpc
from cluster.ingress.request_ids import MAX_LENGTH, sane_id
from cluster.router.table import Health
from tests.unit.ingress.fakes import FakeDispatcher

BODY = {"prompt": [1, 2, 3], "max_tokens": 2}


@pytest.mark.parametrize("sent", ["a", "7f3e-2026", "x" * MAX_LENGTH, "with a space"])
async def test_a_clients_own_id_comes_back(http: httpx.AsyncClient, sent: str) -> None:
    for path, stream in (("/v1/completions", False), ("/v1/completions", True), ("/v1/nothing", False)):
        reply = await http.post(path, json=BODY | {"stream": stream}, headers={"x-request-id": sent})
        assert reply.headers.get_list("x-request-id") == [sent]


@pytest.mark.parametrize("sent", [None, "", "x" * (MAX_LENGTH + 1), "x" * 5000, "tab\there", "naïve"])
async def test_an_id_that_is_left_out_or_not_fit_to_be_repeated_is_a_new_one(
    http: httpx.AsyncClient, sent: str | None
) -> None:
    headers = {} if sent is None else {"x-request-id": sent.encode("latin-1")}
    first, second = [(await http.get("/version", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert len(first) == 32
    assert first != second


def test_ids_are_one_line_of_ascii_whatever_was_sent() -> None:
    for sent in (b"a\r\nx: y", b"\x00", "é", "a\x1b[31m", b" " * 129):
        assert sane_id(sent).isalnum()


async def test_what_is_logged_of_an_error_has_the_id(
    http: httpx.AsyncClient, fake: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    fake.failure = UnavailableError("no worker")
    with caplog.at_level(logging.WARNING, logger="cluster.ingress"):
        reply = await http.post("/v1/completions", json=BODY, headers={"x-request-id": "mine"})
        fake.failure_after = 1
        await http.post("/v1/completions", json=BODY | {"stream": True}, headers={"x-request-id": "other"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "answered with an error request_id=mine status=503 path=/v1/completions"
    assert "request_id=other" in second


async def test_every_503_says_when_to_try_again(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    fake.healthy = Health(ok=False, reason="pool decode is empty")
    fake.failure = UnavailableError("no worker")
    replies = [await http.get(path) for path in ("/health", "/ping", "/")]
    replies += [await http.post("/ping"), await http.post("/v1/completions", json=BODY)]
    assert {(reply.status_code, reply.headers["retry-after"]) for reply in replies} == {(503, "1")}


@pytest.mark.parametrize(("sent", "comes_back"), [("mine", True), ("x" * 200, False)])
async def test_grpc_calls_have_their_id_in_trailing_metadata(
    stub: inference_pb2_grpc.InferenceStub, sent: str, comes_back: bool
) -> None:
    metadata = (("x-request-id", sent),)
    tokenize = stub.Tokenize(inference_pb2.TokenizeRequest(text="a"), metadata=metadata)
    await tokenize
    generate = stub.Generate(inference_pb2.GenerateRequest(prompt="a"), metadata=metadata)
    assert [_ async for _ in generate]
    failed = stub.Detokenize(inference_pb2.DetokenizeRequest(token_ids=[1 << 30]), metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError):
        await failed
    for call in (tokenize, generate, failed, stub.ListModels(inference_pb2.ListModelsRequest(), metadata=metadata)):
        (found,) = [value for name, value in await call.trailing_metadata() if name == "x-request-id"]
        assert (found == sent) is comes_back
