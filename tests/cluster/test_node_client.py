"""The proto stands alone: a stub that Node.js made from it talks to a real server."""

import pytest

import baton
from tests.cluster.served import ServedCluster
from tests.node_client import seen_by_node
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]


def test_node_is_answered_as_the_sdk_is() -> None:
    cluster = ServedCluster()
    try:
        cluster.up()
        seen = seen_by_node(cluster.grpc)
        with baton.Client(cluster.grpc) as client:
            answer = client.generate("Once upon a time", max_tokens=8, temperature=0, logit_bias={5: -1.5})
            (model,) = client.models()
    finally:
        cluster.down()
    assert (seen["text"], seen["status"], seen["request_ids"]) == (answer.text, "OK", 1)
    assert answer.usage is not None
    assert seen["usage"]["completion_tokens"] == answer.usage.completion_tokens == 8
    assert (seen["finish_reason"], seen["chat"], seen["detokenized"]) == ("FINISH_REASON_LENGTH", "OK", "Once upon")
    assert [each["id"] for each in seen["models"]] == [model.id]
    assert (seen["refused"]["status"], seen["refused"]["field"]) == ("INVALID_ARGUMENT", "temperature")
    assert seen["refused"]["details"].startswith("temperature is -1")
    assert seen["cancelled"] == "CANCELLED"
