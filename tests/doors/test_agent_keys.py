"""Keys of Anthropic's clients, and refusals in the shape of their API."""

from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import httpx
import pytest

from tests.doors.keyed import Keyed, keyed_ingress

BODY = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    async with keyed_ingress(tmp_path / "keys.yaml") as ingress:
        yield ingress


@pytest.fixture
async def bare(keyed: Keyed) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=keyed.url, timeout=10) as client:
        yield client


async def test_the_official_client_gets_in(keyed: Keyed) -> None:
    key = await keyed.add("alice")
    for fields in ({"api_key": key}, {"auth_token": key}):
        async with anthropic.AsyncAnthropic(base_url=keyed.url, **fields) as client:
            reply = await client.messages.create(model="demo", **BODY)  # type: ignore[call-overload]
            assert reply.content


async def test_x_api_key_opens_what_lies_below_messages_alone(keyed: Keyed, bare: httpx.AsyncClient) -> None:
    headers = {"x-api-key": await keyed.add("alice"), "anthropic-version": "2023-06-01"}
    assert (await bare.post("/v1/messages", json=BODY, headers=headers)).status_code == 200
    assert (await bare.post("/v1/messages/", json=BODY, headers=headers)).status_code == 200
    counted = await bare.post("/v1/messages/count_tokens", json={"messages": BODY["messages"]}, headers=headers)
    assert counted.status_code == 200
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messagesx"):
        assert (await bare.post(path, json=BODY, headers=headers)).status_code == 401
    for path in ("/v1/models", "/metrics"):
        assert (await bare.get(path, headers=headers)).status_code == 401


async def test_authorization_goes_before_x_api_key(keyed: Keyed, bare: httpx.AsyncClient) -> None:
    headers = {"x-api-key": await keyed.add("alice"), "authorization": "Bearer wrong"}
    assert (await bare.post("/v1/messages", json=BODY, headers=headers)).status_code == 401


@pytest.mark.parametrize("key", [None, "", "wrong", "x" * 5000])
async def test_without_a_key_that_is_known_the_refusal_has_anthropics_shape(
    key: str | None, bare: httpx.AsyncClient
) -> None:
    headers = {} if key is None else {"x-api-key": key}
    reply = await bare.post("/v1/messages", json=BODY, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    assert reply.json()["request_id"] == reply.headers["request-id"]
    assert not key or key not in reply.text


async def test_limits_and_models_of_keys_are_refused_in_that_shape_too(keyed: Keyed, bare: httpx.AsyncClient) -> None:
    other = {"x-api-key": await keyed.add("bob", models=["another"])}
    refused = await bare.post("/v1/messages", json=BODY, headers=other)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    slow = {"x-api-key": await keyed.add("carol", requests_per_minute=1)}
    replies = [await bare.post("/v1/messages", json=BODY, headers=slow) for _ in range(3)]
    assert replies[-1].status_code == 429
    assert replies[-1].json()["error"]["type"] == "rate_limit_error"
    assert int(replies[-1].headers["retry-after"]) >= 1
