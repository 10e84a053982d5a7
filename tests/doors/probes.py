"""Whether a server still does what it is there for: a good request, answered in time."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import TypeVar

import grpc

from baton.v1.draft_pb2 import DraftHello, FromDrafter, ToDrafter
from baton.v1.inference_pb2 import GenerateRequest, GenerateResponse, SamplingParams
from baton.v1.worker_pb2 import ChoiceStart, FromWorker, Hello, Submit, ToWorker
from workers.server import SECRET_METADATA

M = TypeVar("M")
TIMEOUT_S = 20.0


def http(port: int) -> None:
    body = json.dumps({"prompt": "Once upon", "max_tokens": 2}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        assert json.loads(reply.read())["usage"]["completion_tokens"] == 2


def inference(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        generate = channel.unary_stream(
            "/baton.v1.Inference/Generate",
            request_serializer=GenerateRequest.SerializeToString,
            response_deserializer=GenerateResponse.FromString,
        )
        request = GenerateRequest(prompt="Once upon", sampling=SamplingParams(max_tokens=2))
        replies = list(generate(request, timeout=TIMEOUT_S))
    assert replies[-1].usage.completion_tokens == 2


def worker(address: str, secret: str) -> None:
    submit = Submit(request_id=f"probe-{time.monotonic_ns()}", prompt_token_ids=range(8), timeout_s=60)
    submit.sampling.CopyFrom(SamplingParams(max_tokens=3, seed=1, ignore_eos=True))
    submit.choices.append(ChoiceStart(choice=0))
    with grpc.insecure_channel(address) as channel:
        session = channel.stream_stream(
            "/baton.v1.Worker/Session",
            request_serializer=ToWorker.SerializeToString,
            response_deserializer=FromWorker.FromString,
        )
        messages = [ToWorker(hello=Hello(ingress_id=submit.request_id)), ToWorker(submit=submit)]
        num_tokens = 0
        over = threading.Event()
        call = session(until(over, messages), metadata=[(SECRET_METADATA, secret)], timeout=TIMEOUT_S)
        for message in call:
            for output in message.outputs.outputs:
                assert not output.HasField("error"), output.error
                num_tokens += len(output.token_ids)
            if num_tokens == 3:
                break
        over.set()
        call.cancel()


def drafter(address: str, secret: str, vocab_size: int) -> None:
    hello = DraftHello(worker_id="probe", vocab_size=vocab_size, num_tokens=4)
    with grpc.insecure_channel(address) as channel:
        draft = channel.stream_stream(
            "/baton.v1.Drafting/Draft",
            request_serializer=ToDrafter.SerializeToString,
            response_deserializer=FromDrafter.FromString,
        )
        over = threading.Event()
        messages = [ToDrafter(hello=hello)]
        call = draft(until(over, messages), metadata=[(SECRET_METADATA, secret)], timeout=TIMEOUT_S)
        assert not next(call).hello.refusal
        over.set()
        call.cancel()


def inference_soon(port: int) -> None:
    """gRPC sheds calls while more are waiting than it takes, as amid resets; not for long."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return inference(port)
        except grpc.RpcError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def until(over: threading.Event, messages: Sequence[M]) -> Iterator[M]:
    """The stream then stays open, on a thread of gRPC's."""
    yield from messages
    over.wait(TIMEOUT_S)
