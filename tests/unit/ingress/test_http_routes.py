from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from baton.errors import OverloadedError
from cluster.router.table import Health
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer


async def test_tokenize_and_detokenize_are_inverse(http: httpx.AsyncClient) -> None:
    reply = (await http.post("/tokenize", json={"prompt": "Once upon a time"})).json()
    assert reply["count"] == len(reply["tokens"]) > 0
    assert reply["max_model_len"] == 2048
    back = await http.post("/detokenize", json={"tokens": reply["tokens"]})
    assert back.json() == {"prompt": "Once upon a time"}


async def test_tokenize_takes_messages_through_the_template(http: httpx.AsyncClient) -> None:
    chat = await http.post("/tokenize", json={"messages": [{"role": "user", "content": "hi"}]})
    plain = await http.post("/tokenize", json={"prompt": "hi\n"})
    assert chat.json()["tokens"] == plain.json()["tokens"]


async def test_tokenize_takes_what_shapes_a_chats_prompt(http: httpx.AsyncClient) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]}
    whole = (await http.post("/tokenize", json=chat)).json()["tokens"]
    shorter = (await http.post("/tokenize", json=chat | {"add_generation_prompt": False})).json()["tokens"]
    assert whole[: len(shorter)] == shorter
    assert len(shorter) < len(whole)
    goes_on = (await http.post("/tokenize", json=chat | {"continue_final_message": True})).json()["tokens"]
    assert demo_tokenizer().decode(goes_on).endswith("Well")


@pytest.mark.parametrize("field", [{"add_generation_prompt": True}, {"tools": []}, {"chat_template_kwargs": {"a": 1}}])
async def test_tokenize_refuses_for_a_prompt_what_is_for_messages(
    http: httpx.AsyncClient, field: dict[str, Any]
) -> None:
    reply = await http.post("/tokenize", json={"prompt": "hi"} | field)
    (name,) = field
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == f"{name} is for messages, not for a prompt; leave it out"


async def test_models_say_their_context_and_vocabulary(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert (model["id"], model["max_model_len"], model["vocab_size"]) == ("demo", 2048, demo_tokenizer().vocab_size)


async def test_tokenize_needs_exactly_one_input(http: httpx.AsyncClient) -> None:
    for body in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}):
        reply = await http.post("/tokenize", json=body)
        assert reply.status_code == 400
        assert "exactly one of the two" in reply.json()["error"]["message"]


async def test_detokenize_refuses_ids_outside_the_vocabulary(http: httpx.AsyncClient) -> None:
    reply = await http.post("/detokenize", json={"tokens": [1, 4096]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "tokens"


async def test_health_is_503_with_the_reason(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    fake.healthy = Health(ok=False, reason="pool decode is empty")
    reply = await http.get("/health")
    assert reply.status_code == 503
    assert reply.json() == {"status": "unhealthy", "reason": "pool decode is empty"}


async def test_version_is_that_of_the_package(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version")).json()["version"].count(".") == 2


async def test_metrics_count_requests_tokens_and_workers(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    fake.num_cached_tokens = 1
    body = {"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
    await http.post("/v1/completions", json=body)
    await http.post("/v1/completions", json=body | {"temperature": -1})
    fake.failure = OverloadedError("full")
    await http.post("/v1/completions", json=body)
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }
    assert values["baton_requests_total", "completions", "demo", "ok"] == 1
    assert values["baton_requests_total", "", "completions", "invalid_request"] == 1
    assert values["baton_requests_total", "completions", "demo", "overloaded"] == 1
    assert values["baton_output_tokens_total", "demo"] == 4
    assert values["baton_cached_tokens_total", "demo"] == 1
    assert values["baton_ttft_seconds_count", "demo"] == 1
    assert values["baton_itl_seconds_count", "demo"] == 3
    assert values["baton_requests_open",] == values["baton_requests_waiting",] == 0
    assert values["baton_worker_blocks", "decode", "decode-0", "demo", "free"] == 60
    assert values["baton_worker_blocks", "decode", "decode-0", "demo", "quarantined"] == 1
    assert values["baton_worker_requests_waiting", "decode", "decode-0", "demo"] == 2


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/v1/models", "/v1/models/demo", "/metrics", "/version"])
async def test_what_answers_get_answers_head_with_the_same_status_and_no_body(
    http: httpx.AsyncClient, path: str
) -> None:
    got, head = await http.get(path), await http.head(path)
    assert got.status_code == head.status_code == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    assert got.content
    assert not head.content


async def test_head_of_health_tells_a_prober_of_trouble(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    fake.healthy = Health(ok=False, reason="pool decode is empty")
    assert [(await http.head(path)).status_code for path in ("/", "/health", "/healthz")] == [503] * 3


async def test_a_slash_at_the_end_changes_nothing_and_redirects_nobody(http: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/models/demo", "/health", "/version"):
        with_slash = await http.get(path + "/")
        assert with_slash.status_code == 200
        assert with_slash.json() == (await http.get(path)).json()
    body = {"prompt": [1, 2, 3], "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    for path, left_out in (("/v1/completions/", "messages"), ("/v1/chat/completions//", "prompt")):
        reply = await http.post(path, json={name: value for name, value in body.items() if name != left_out})
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 2


async def test_an_unknown_path_with_a_slash_is_a_404_and_a_wrong_method_says_which_is_right(
    http: httpx.AsyncClient,
) -> None:
    unknown = await http.get("/v1/nothing/")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    wrong = await http.get("/v1/completions/")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
