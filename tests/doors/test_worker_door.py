"""A worker's own server: who has not the secret is refused unread; who has it and talks nonsense ends no worker."""

import dataclasses
import threading
from collections.abc import Iterator

import grpc
import pytest

from baton.v1.inference_pb2 import FINISH_REASON_ERROR, SamplingParams
from baton.v1.kv_pb2 import Complete, FirstToken, FromReceiver, FromSender, Offer, Range, Ranges, TransferKey
from baton.v1.worker_pb2 import (
    Abort,
    ChoiceStart,
    FromWorker,
    GetStateRequest,
    Hello,
    Submit,
    TokenOutput,
    ToWorker,
    WorkerState,
)
from tests.doors import messages, probes, processes
from tests.doors.attacks import half_messages
from tests.doors.processes import ServerProcess
from workers.server import SECRET_METADATA
from workers.spec import WorkerSpec

SPEC: WorkerSpec = dataclasses.replace(processes.worker_spec(), fake_step_s=0.02)
GOOD = SamplingParams(max_tokens=3, seed=1, ignore_eos=True)
PROMPT = range(8)


@pytest.fixture(scope="module")
def worker() -> Iterator[ServerProcess]:
    with processes.worker(SPEC) as made:
        yield made
        probes.worker(made.told["address"], SPEC.secret)
        assert "Traceback" not in made.log


def _submit(request_id: str, **changes: object) -> Submit:
    fields = {"prompt_token_ids": PROMPT, "choices": [ChoiceStart(choice=0)], "sampling": GOOD, "timeout_s": 60.0}
    return Submit(request_id=request_id, **(fields | changes))  # type: ignore[arg-type]


def _outputs(worker: ServerProcess, said: list[ToWorker]) -> list[TokenOutput]:
    """Of one session that ends with a good request's last token."""
    over = threading.Event()
    found: list[TokenOutput] = []
    last = _submit("last")
    sent = [ToWorker(hello=Hello(ingress_id="i")), *said, ToWorker(submit=last)]
    with grpc.insecure_channel(worker.told["address"]) as channel:
        session = channel.stream_stream(
            "/baton.v1.Worker/Session",
            request_serializer=ToWorker.SerializeToString,
            response_deserializer=FromWorker.FromString,
        )
        call = session(probes.until(over, sent), metadata=[(SECRET_METADATA, SPEC.secret)], timeout=20)
        for message in call:
            found += message.outputs.outputs
            if any(one.request_id == "last" and one.finish_reason for one in found):
                break
        over.set()
        call.cancel()
    return [one for one in found if one.request_id != "last"]


BAD = {
    "a choice twice": {"choices": [ChoiceStart(choice=0), ChoiceStart(choice=0)]},
    "no prompt": {"prompt_token_ids": []},
    "a token that is none": {"prompt_token_ids": [1, 2**32 - 1]},
    "output that is none": {"choices": [ChoiceStart(choice=0, output_token_ids=[2**31])]},
    "more output than tokens": {"choices": [ChoiceStart(choice=0, output_token_ids=[1, 2, 3, 4])]},
    "no sampling": {"sampling": SamplingParams()},
    "more likely tokens than 20": {"sampling": SamplingParams(max_tokens=3, prompt_logprobs=2**31)},
    "no number": {"sampling": SamplingParams(max_tokens=3, temperature=float("nan"))},
    "a probability of 9": {"sampling": SamplingParams(max_tokens=3, top_p=9)},
    "a bias for no token": {"sampling": SamplingParams(max_tokens=3, logit_bias={2**31 - 1: 1.0})},
    "no time": {"timeout_s": float("nan")},
}


def test_a_malformed_request_costs_its_sender_an_error_and_nobody_the_worker(worker: ServerProcess) -> None:
    said = [ToWorker(submit=_submit(name, **changes)) for name, changes in BAD.items()]
    outputs = {one.request_id: one for one in _outputs(worker, said)}
    assert set(outputs) == set(BAD)
    for name, one in outputs.items():
        assert one.finish_reason == FINISH_REASON_ERROR, name
        assert one.error.code == "invalid_request", one
        assert not one.error.retryable


def test_a_replayed_request_is_passed_over(worker: ServerProcess) -> None:
    once, older, newer = _submit("r", attempt=1), _submit("r", attempt=0), _submit("r", attempt=2)
    outputs = _outputs(worker, [ToWorker(submit=once), ToWorker(submit=once), ToWorker(submit=older)])
    assert {(one.attempt, one.index) for one in outputs} == {(1, 0), (1, 1), (1, 2)}
    assert len(outputs) == 3
    abort = Abort(request_id="r", attempt=1)
    outputs = _outputs(worker, [ToWorker(abort=abort), ToWorker(submit=once), ToWorker(submit=newer)])
    assert {one.attempt for one in outputs} == {2}


def _transfer(worker: ServerProcess, request_id: str, then: list[FromSender]) -> tuple[str, FromReceiver | None]:
    """Offers a request to a worker that decodes, waits for its blocks and says `then`; status, and the last reply."""
    over, granted = threading.Event(), threading.Event()
    key = TransferKey(request_id=request_id)
    offer = FromSender(offer=Offer(key=key, ingress_id="i", submit=_submit(request_id)))

    def sent() -> Iterator[FromSender]:
        yield FromSender(handshake=messages.handshake(SPEC))
        yield offer
        granted.wait(10)
        yield from then
        over.wait(10)

    last = None
    with grpc.insecure_channel(worker.told["address"]) as channel:
        link = channel.stream_stream(
            "/baton.v1.KVTransfer/Link",
            request_serializer=FromSender.SerializeToString,
            response_deserializer=FromReceiver.FromString,
        )
        call = link(sent(), metadata=[(SECRET_METADATA, SPEC.secret)], timeout=20)
        try:
            for reply in call:
                assert not reply.handshake.refusal, reply
                last = reply
                if reply.HasField("ticket"):
                    granted.set()
                elif granted.is_set():
                    break
            status = "ended"
        except grpc.RpcError as error:
            status = error.code().name
        over.set()
        call.cancel()
    return status, last


def _ranges(request_id: str, end: int, nbytes: int | None = None) -> FromSender:
    key = TransferKey(request_id=request_id)
    payloads = messages.handshake(SPEC).payloads
    ranges = [
        Range(key=key, index=at, end=end, payload=bytes(end * one.unit_nbytes if nbytes is None else nbytes))
        for at, one in enumerate(payloads)
    ]
    return FromSender(ranges=Ranges(ranges=ranges))


def _complete(request_id: str, num_tokens: int, token_id: int = 1) -> FromSender:
    num_ranges = len(messages.handshake(SPEC).payloads)
    first = [FirstToken(choice=0, token_id=token_id)]
    key = TransferKey(request_id=request_id)
    return FromSender(complete=Complete(key=key, num_tokens=num_tokens, num_ranges=num_ranges, first_tokens=first))


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("longer than it is", [_ranges("longer than it is", 200)]),
        ("not its bytes", [_ranges("not its bytes", 8, nbytes=3), _complete("not its bytes", 8)]),
        ("fewer tokens", [_ranges("fewer tokens", 4), _complete("fewer tokens", 4)]),
        ("a token that is none", [_ranges("a token that is none", 8), _complete("a token that is none", 8, 2**31)]),
        ("no ranges", [_complete("no ranges", 8)]),
        ("a second handshake", [FromSender(handshake=messages.handshake(SPEC))]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_transfer_that_makes_no_sense_ends_and_the_worker_does_not(
    worker: ServerProcess, name: str, then: list[FromSender]
) -> None:
    _, last = _transfer(worker, name, then)
    assert last is not None
    probes.worker(worker.told["address"], SPEC.secret)


async def test_without_the_secret_a_call_is_refused_before_its_message_has_come(worker: ServerProcess) -> None:
    port = int(worker.told["address"].rpartition(":")[2])
    outcomes = await half_messages(port, 5, path="/baton.v1.Worker/GetState")
    assert dict(outcomes) == {"status 16": 5}  # UNAUTHENTICATED


def test_a_wrong_secret_of_any_kind_is_refused(worker: ServerProcess) -> None:
    with grpc.insecure_channel(worker.told["address"]) as channel:
        state = channel.unary_unary(
            "/baton.v1.Worker/GetState",
            request_serializer=GetStateRequest.SerializeToString,
            response_deserializer=WorkerState.FromString,
        )
        for secret in ("", "S", "s ", "ss", "s" * 4000):
            with pytest.raises(grpc.RpcError) as refused:
                state(GetStateRequest(), metadata=[(SECRET_METADATA, secret)], timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert state(GetStateRequest(), metadata=[(SECRET_METADATA, SPEC.secret)], timeout=10).worker_id
