"""A stub that another language made from the proto alone, against the fake server."""

import grpc
import pytest

from tests.grpc_server import Fail, FakeGrpcServer, Hang, last, token
from tests.node_client import seen_by_node

pytestmark = pytest.mark.slow  # npm fetches packages once


def test_node_speaks_the_proto(server: FakeGrpcServer) -> None:
    refusal = (("baton-error-code", "invalid_request"), ("baton-error-field", "temperature"))
    finished = token(1, finish=1)  # FINISH_REASON_STOP
    server.scripts.extend(
        [
            [token(0), finished, last(prompt_tokens=4, completion_tokens=2)],
            [finished, last()],
            [Fail(status=grpc.StatusCode.INVALID_ARGUMENT, details="temperature is -1", metadata=refusal)],
            [token(0), Hang()],
        ]
    )
    seen = seen_by_node(server.target)
    assert seen == {
        "text": "t0 t1 ",
        "status": "OK",
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
        "finish_reason": "FINISH_REASON_STOP",
        "request_ids": 1,
        "chat": "OK",
        "detokenized": "Once upon",
        "models": [{"id": "fake", "max_model_len": 2048, "vocab_size": 500}],
        "refused": {"status": "INVALID_ARGUMENT", "details": "temperature is -1", "field": "temperature"},
        "cancelled": "CANCELLED",
    }
    assert server.cancelled.wait(10)
    first = server.requests[0]
    assert (first.sampling.seed, first.sampling.logit_bias[5]) == (2**64 - 1, -1.5)
    assert first.sampling.HasField("temperature")
    assert {sent["authorization"] for sent in server.metadata} == {"Bearer bt-node"}
