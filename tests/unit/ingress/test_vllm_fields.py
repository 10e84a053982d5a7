"""Fields of vLLM's requests that OpenAI's have not."""

from typing import Any

import httpx
import pytest

from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer


async def completed(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/completions", json={"prompt": "Once upon a time", "max_tokens": 8} | fields)
    body: dict[str, Any] = reply.json()
    return body


async def test_special_tokens_are_in_the_text_where_they_are_asked_for(
    http: httpx.AsyncClient, fake: FakeDispatcher
) -> None:
    fake.answer = "one<|endoftext|>two"
    assert (await completed(http))["choices"][0]["text"] == "onetwo"
    assert (await completed(http, skip_special_tokens=False))["choices"][0]["text"] == "one<|endoftext|>two"
    chat = {"messages": [{"role": "user", "content": "hi"}], "skip_special_tokens": False}
    reply = (await http.post("/v1/chat/completions", json=chat)).json()
    assert reply["choices"][0]["message"]["content"] == "one<|endoftext|>two"


async def test_a_prompt_is_cut_from_the_left(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    whole = demo_tokenizer().encode("Once upon a time")
    for kept in (1, len(whole) - 1, len(whole), 1000):
        body = await completed(http, truncate_prompt_tokens=kept)
        assert list(fake.requests[-1].prompt_token_ids) == whole[-kept:]
        assert body["usage"]["prompt_tokens"] == min(kept, len(whole))


async def test_as_much_of_a_prompt_is_kept_as_leaves_room_for_the_answer(
    http: httpx.AsyncClient, fake: FakeDispatcher
) -> None:
    fake.max_model_len = fake.max_request_tokens = 20
    prompts = [list(range(1, 31)), list(range(1, 9))]
    await completed(http, prompt=prompts, truncate_prompt_tokens=-1)
    assert [list(one.prompt_token_ids) for one in fake.requests] == [list(range(19, 31)), list(range(1, 9))]


async def test_an_echo_is_of_what_was_read(http: httpx.AsyncClient) -> None:
    body = await completed(http, truncate_prompt_tokens=2, echo=True)
    last = demo_tokenizer().decode(demo_tokenizer().encode("Once upon a time")[-2:])
    assert body["choices"][0]["text"].startswith(last)


@pytest.mark.parametrize("value", [0, -2])
async def test_what_is_no_number_of_tokens_is_refused(http: httpx.AsyncClient, value: int) -> None:
    error = (await completed(http, truncate_prompt_tokens=value))["error"]
    assert error["message"] == f"truncate_prompt_tokens is {value}; it must be -1 (as many as fit), or at least 1"
