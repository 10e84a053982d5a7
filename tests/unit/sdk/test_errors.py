"""Every error a server can send, and when it is worth another try."""

import random

import grpc
import pytest
from grpc import StatusCode as Code

import baton
from baton._retry import Attempts
from tests.grpc_server import Fail, FakeGrpcServer, token


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Code.INVALID_ARGUMENT, baton.InvalidRequestError),
        (Code.NOT_FOUND, baton.ModelNotFoundError),
        (Code.UNAUTHENTICATED, baton.UnauthenticatedError),
        (Code.PERMISSION_DENIED, baton.PermissionDeniedError),
        (Code.RESOURCE_EXHAUSTED, baton.OverloadedError),
        (Code.UNAVAILABLE, baton.UnavailableError),
        (Code.DEADLINE_EXCEEDED, baton.DeadlineExceededError),
        (Code.CANCELLED, baton.CancelledError),
        (Code.INTERNAL, baton.InternalError),
        (Code.UNKNOWN, baton.InternalError),
        (Code.UNIMPLEMENTED, baton.InternalError),
    ],
    ids=lambda value: str(getattr(value, "name", "") or value.__name__),
)
def test_a_status_becomes_its_error(server: FakeGrpcServer, status: Code, error: type[baton.BatonError]) -> None:
    server.scripts.append([Fail(status=status, details="scripted words")])
    server.unary_scripts.append(Fail(status=status, details="scripted words"))
    with baton.Client(server.target, max_retries=0, timeout_s=20) as client:
        with pytest.raises(error, match="scripted words") as caught:
            client.generate("Once")
        assert type(caught.value) is error
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        with pytest.raises(error, match="scripted words"):
            client.tokenize("Once")


@pytest.mark.parametrize(
    "error",
    [
        baton.InternalError,
        baton.InvalidRequestError,
        baton.ModelNotFoundError,
        baton.UnauthenticatedError,
        baton.PermissionDeniedError,
        baton.OverloadedError,
        baton.RateLimitError,
        baton.RequestTooLargeError,
        baton.RequestTimeoutError,
        baton.UnavailableError,
        baton.DeadlineExceededError,
        baton.CancelledError,
    ],
)
def test_the_code_in_the_trailing_metadata_decides(server: FakeGrpcServer, error: type[baton.BatonError]) -> None:
    metadata = (("baton-error-code", error.code), ("baton-error-field", "top_p"))
    server.scripts.append([Fail(status=Code.UNKNOWN, details="top_p=2", metadata=metadata)])
    with (
        baton.Client(server.target, max_retries=0, timeout_s=20) as client,
        pytest.raises(error, match="top_p=2") as caught,
    ):
        client.generate("Once")
    assert type(caught.value) is error
    if isinstance(caught.value, baton.InvalidRequestError):
        assert caught.value.field == "top_p"


def test_a_code_of_a_newer_server_is_a_plain_baton_error(server: FakeGrpcServer) -> None:
    server.scripts.append([Fail(status=Code.UNAVAILABLE, metadata=(("baton-error-code", "moon_phase"),))])
    with baton.Client(server.target, timeout_s=20) as client, pytest.raises(baton.BatonError) as caught:
        client.generate("Once")
    assert type(caught.value) is baton.BatonError
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.INTERNAL, Code.CANCELLED])
def test_what_cannot_succeed_again_is_sent_once(server: FakeGrpcServer, status: Code) -> None:
    server.scripts.append([Fail(status=status)])
    with baton.Client(server.target, timeout_s=20) as client, pytest.raises(baton.BatonError):
        client.generate("Once")
    assert len(server.requests) == 1


@pytest.mark.parametrize("pause", [("retry-after", "2.5"), ("retry-after-ms", "2500")], ids=["seconds", "ms"])
def test_an_overloaded_server_says_when_to_come_back(server: FakeGrpcServer, pause: tuple[str, str]) -> None:
    server.scripts.append([Fail(status=Code.RESOURCE_EXHAUSTED, metadata=(pause,))])
    with (
        baton.Client(server.target, max_retries=0, timeout_s=20) as client,
        pytest.raises(baton.OverloadedError) as caught,
    ):
        client.generate("Once")
    assert caught.value.retry_after_s == 2.5


def test_a_malformed_pause_leaves_the_default(server: FakeGrpcServer) -> None:
    server.scripts.append([Fail(status=Code.RESOURCE_EXHAUSTED, metadata=(("retry-after-ms", "soon"),))])
    with (
        baton.Client(server.target, max_retries=0, timeout_s=20) as client,
        pytest.raises(baton.OverloadedError) as caught,
    ):
        client.generate("Once")
    assert caught.value.retry_after_s == 1.0


def test_a_pause_past_the_deadline_is_not_waited_for(server: FakeGrpcServer) -> None:
    server.scripts.append([Fail(status=Code.RESOURCE_EXHAUSTED, metadata=(("retry-after-ms", "60000"),))])
    with baton.Client(server.target, timeout_s=20) as client, pytest.raises(baton.OverloadedError):
        client.generate("Once")
    assert len(server.requests) == 1


def test_a_request_over_the_transports_limit_is_the_callers_fault(server: FakeGrpcServer) -> None:
    with (
        baton.Client(server.target, timeout_s=20) as client,
        pytest.raises(baton.RequestTooLargeError, match="too large") as caught,
    ):
        client.tokenize("x" * (5 << 20))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "details", ["SERVER: Received message larger than max (9 vs. 8)", "metadata size exceeds hard"]
)
def test_what_grpc_itself_finds_too_large_is_sent_once(server: FakeGrpcServer, details: str) -> None:
    server.scripts.append([Fail(status=Code.RESOURCE_EXHAUSTED, details=details)])
    with baton.Client(server.target, timeout_s=20) as client, pytest.raises(baton.RequestTooLargeError):
        client.generate("Once")
    assert len(server.requests) == 1


def test_no_server_names_the_address_and_the_fix(dead_target: str) -> None:
    with baton.Client(dead_target, timeout_s=20) as client:
        with pytest.raises(
            baton.UnavailableError, match=f"no server answers at {dead_target}; start one with `baton up`"
        ):
            client.generate("Once")
        with pytest.raises(baton.UnavailableError, match="no server answers"):
            client.health()


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _attempts(clock: _Clock, *, timeout_s: float = 60.0, max_retries: int = 8) -> Attempts:
    return Attempts(timeout_s=timeout_s, max_retries=max_retries, rng=random.Random(1), clock=clock)


def test_pauses_double_up_to_five_seconds() -> None:
    attempts = _attempts(_Clock())
    pauses_s = [attempts.pause_s(baton.UnavailableError("gone")) for _ in range(8)]
    for number, pause_s in enumerate(pauses_s):
        longest_s = min(5.0, 0.1 * 2**number)
        assert longest_s / 2 <= pause_s <= longest_s


def test_a_pause_is_at_least_what_the_server_asks_for() -> None:
    attempts = _attempts(_Clock())
    assert attempts.pause_s(baton.OverloadedError("busy", retry_after_s=7.0)) == 7.0


def test_pauses_end_at_the_deadline() -> None:
    clock = _Clock()
    attempts = _attempts(clock, timeout_s=10.0)
    clock.now_s += 9.99
    assert attempts.remaining_s() == pytest.approx(0.01)
    with pytest.raises(baton.UnavailableError):
        attempts.pause_s(baton.UnavailableError("gone"))
    clock.now_s += 1
    assert attempts.remaining_s() == 0.0


CUT_OFF = Fail(status=Code.CANCELLED, details="Stream removed (RST_STREAM (Received RST_STREAM with error code 8))")


def test_generate_begins_anew_when_the_server_is_lost_half_way(server: FakeGrpcServer) -> None:
    server.scripts.append([token(7), token(8), CUT_OFF])
    with baton.Client(server.target, timeout_s=20) as client:
        answer = client.generate("Once", max_tokens=3)
    assert answer.choices[0].token_ids == (100, 101, 102)
    assert len(server.requests) == 2


async def test_the_asyncio_client_begins_anew_too(server: FakeGrpcServer) -> None:
    server.scripts.append([token(7), CUT_OFF])
    async with baton.AsyncClient(server.target, timeout_s=20) as client:
        answer = await client.generate("Once", max_tokens=3)
    assert answer.choices[0].token_ids == (100, 101, 102)
    assert len(server.requests) == 2


def test_a_stream_that_was_read_in_part_is_not_sent_again(server: FakeGrpcServer) -> None:
    server.scripts.append([token(7), CUT_OFF])
    with baton.Client(server.target, timeout_s=20) as client, client.stream("Once") as stream:
        assert next(stream).token_ids == (107,)
        with pytest.raises(baton.UnavailableError, match="lost the request"):
            next(stream)
    assert len(server.requests) == 1
