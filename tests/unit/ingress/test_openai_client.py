"""The official client, unmodified, against the app on a port."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from baton.errors import InternalError, OverloadedError, UnavailableError
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer

ANSWER = "The best of times {choice}."
FIRST = "The best of times 0."
USER = [{"role": "user", "content": "Tell me"}]


async def test_a_completion_has_text_reason_and_usage(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.num_cached_tokens = 2
    reply = await client.completions.create(model="demo", prompt="Once upon a time")
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == (FIRST, "stop")
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens == len(fake.requests[0].prompt_token_ids)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.cached_tokens == 2
    assert reply.object == "text_completion"
    assert reply.model == "demo"
    assert reply.id.startswith("cmpl-")


async def test_the_synchronous_client_works_too(url: str) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            stream = client.completions.create(model="demo", prompt="Once", stream=True)
            return "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(ask) == FIRST


async def test_streamed_deltas_add_up_to_the_whole_answer(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = "naïve 🙂 東京 {choice}"
    stream = await client.chat.completions.create(model="demo", messages=USER, n=2, stream=True)
    texts, roles, reasons = ["", ""], [0, 0], ["", ""]
    async for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        assert chunk.usage is None
        choice = chunk.choices[0]
        assert "\ufffd" not in (choice.delta.content or "")
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        reasons[choice.index] += choice.finish_reason or ""
    assert texts == ["naïve 🙂 東京 0", "naïve 🙂 東京 1"]
    assert roles == [1, 1]
    assert reasons == ["stop", "stop"]


@pytest.mark.parametrize("is_chat", [True, False])
async def test_every_event_tells_the_usage_so_far_when_asked_for(client: openai.AsyncOpenAI, is_chat: bool) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    common: Any = {"model": "demo", "stream": True, "stream_options": options}
    if is_chat:
        stream: Any = await client.chat.completions.create(messages=USER, **common)
    else:
        stream = await client.completions.create(prompt="Once", **common)
    counts = [chunk.usage.completion_tokens async for chunk in stream]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    without: Any = {"continuous_usage_stats": True}
    stream = await client.completions.create(model="demo", prompt="Once", stream=True, stream_options=without)
    assert [chunk.usage async for chunk in stream if chunk.usage is not None] == []


async def test_a_stream_ends_with_usage_when_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="demo", prompt="Once", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    whole = await client.completions.create(model="demo", prompt="Once")
    assert chunks[-1].usage == whole.usage


async def test_a_chat_goes_through_the_template(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    parts = [{"type": "text", "text": "Tell"}, {"type": "text", "text": "me"}]
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": parts}]
    reply = await client.chat.completions.create(model="demo", messages=messages)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == FIRST
    assert reply.choices[0].message.role == "assistant"
    tokenizer = demo_tokenizer()
    assert tokenizer.decode(fake.requests[0].prompt_token_ids) == "Be brief\nTell\nme\n"


async def test_prompts_times_choices_are_numbered_like_openais(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    reply = await client.completions.create(model="demo", prompt=["One", "Two", "Three"], n=2)
    assert [choice.index for choice in reply.choices] == list(range(6))
    assert [choice.text[-2] for choice in reply.choices] == ["0", "1"] * 3
    assert len({request.request_id for request in fake.requests}) == 3
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == sum(len(request.prompt_token_ids) for request in fake.requests)


async def test_token_id_prompts_reach_the_worker_as_they_are(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    await client.completions.create(model="demo", prompt=[5, 6, 7])
    await client.completions.create(model="demo", prompt=[[1, 2], [3]])
    assert [list(request.prompt_token_ids) for request in fake.requests] == [[5, 6, 7], [1, 2], [3]]


async def test_every_sampling_field_reaches_the_worker(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    extra = {
        "top_k": 5,
        "min_p": 0.25,
        "min_tokens": 2,
        "stop_token_ids": [9, 10],
        "repetition_penalty": 1.5,
        "ignore_eos": True,
    }
    await client.completions.create(
        model="demo",
        prompt="Once",
        max_tokens=7,
        temperature=0.5,
        top_p=0.75,
        seed=-1,
        logit_bias={"11": -100, "12": 3},
        presence_penalty=1,
        frequency_penalty=-2,
        logprobs=3,
        extra_body=extra,
    )
    sampling = fake.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.5, 0.75, 5)
    assert (sampling.min_p, sampling.min_tokens, list(sampling.stop_token_ids)) == (0.25, 2, [9, 10])
    assert (sampling.repetition_penalty, sampling.ignore_eos, sampling.seed) == (1.5, True, 2**64 - 1)
    assert dict(sampling.logit_bias) == {11: -100, 12: 3}
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logprobs) == (1, -2, 3)


async def test_what_is_left_out_is_left_to_the_worker(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    for _ in range(2):
        await client.completions.create(model="demo", prompt=[1, 2, 3, 4])
    first, second = (request.sampling for request in fake.requests)
    assert first.max_tokens == fake.max_request_tokens - 4
    assert first.seed != second.seed
    assert not first.HasField("temperature")
    assert not first.HasField("logprobs")
    assert first.n == 1


async def test_max_completion_tokens_ends_a_chat_by_length(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="demo", messages=USER, max_completion_tokens=2)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_across_tokens_ends_one_choice(
    client: openai.AsyncOpenAI, fake: FakeDispatcher, stream: bool
) -> None:
    fake.answer = "wait for it {choice}. And on it goes"
    request = {"model": "demo", "prompt": "Once", "n": 2, "stop": ["t 1. An"]}
    if stream:
        texts, reasons = ["", ""], [None, None]
        async for chunk in await client.completions.create(**request, stream=True):  # type: ignore[call-overload]
            texts[chunk.choices[0].index] += chunk.choices[0].text
            reasons[chunk.choices[0].index] = chunk.choices[0].finish_reason
    else:
        reply = await client.completions.create(**request)  # type: ignore[call-overload]
        texts, reasons = [c.text for c in reply.choices], [c.finish_reason for c in reply.choices]
    assert texts == ["wait for it 0. And on it goes", "wait for i"]
    assert reasons == ["stop", "stop"]
    assert [choice for _, choice in fake.aborted_choices] == [1]


async def test_a_stop_string_may_be_a_single_string_and_be_kept(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    reply = await client.completions.create(
        model="demo", prompt="Once", stop="best", extra_body={"include_stop_str_in_output": True}
    )
    assert reply.choices[0].text == "The best"
    assert reply.choices[0].model_extra == {"stop_reason": "best"}
    assert fake.closed == [fake.requests[0].request_id]


async def test_a_stop_string_waits_for_min_tokens(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="demo", prompt="Once", stop="The", extra_body={"min_tokens": 3})
    assert reply.choices[0].text == FIRST


async def test_a_stop_token_is_counted_and_its_text_left_out(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    best = demo_tokenizer().encode("The best")[-1]
    reply = await client.completions.create(model="demo", prompt="Once", extra_body={"stop_token_ids": [best]})
    assert reply.choices[0].text == "The"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].model_extra == {"stop_reason": str(best)}
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_completion_logprobs_line_up_with_the_text(client: openai.AsyncOpenAI, stream: bool) -> None:
    tokens, offsets, text = [], [], ""
    request = {"model": "demo", "prompt": "Once", "logprobs": 2}
    if stream:
        async for chunk in await client.completions.create(**request, stream=True):  # type: ignore[call-overload]
            text += chunk.choices[0].text
            tokens += chunk.choices[0].logprobs.tokens
            offsets += chunk.choices[0].logprobs.text_offset
    else:
        choice = (await client.completions.create(**request)).choices[0]  # type: ignore[call-overload]
        text, tokens, offsets = choice.text, choice.logprobs.tokens, choice.logprobs.text_offset
        assert choice.logprobs.token_logprobs == [-0.5] * len(tokens)
        assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    assert tokens[-1] == "<|endoftext|>"
    assert text == "".join(tokens[:-1]) == FIRST
    assert all(text[start : start + len(token)] == token for start, token in zip(offsets, tokens[:-1], strict=False))


async def test_chat_logprobs_carry_the_bytes_of_each_token(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = "a🙂"
    reply = await client.chat.completions.create(model="demo", messages=USER, logprobs=True, top_logprobs=2)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(token.bytes or []) for token in logprobs.content[:-1]) == "a🙂".encode()
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)


async def test_logprobs_of_zero_alternatives_is_the_sampled_token_alone(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="demo", messages=USER, logprobs=True)
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.content is not None
    assert reply.choices[0].logprobs.content[0].top_logprobs == []


async def test_harmless_fields_are_accepted(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="demo",
        messages=USER,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        response_format={"type": "text"},
        tools=[],
    )
    assert reply.choices[0].message.content == FIRST


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["demo"]
    assert (await client.models.retrieve("demo")).id == "demo"
    with pytest.raises(openai.NotFoundError, match='serves "demo" alone'):
        await client.models.retrieve("other")


async def test_a_shed_request_says_when_to_come_back(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.failure = OverloadedError("the queue of 256 requests is full; retry later", retry_after_s=2.5)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.completions.create(model="demo", prompt="Once", stream=True)
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.code == "overloaded"


async def test_an_error_in_a_stream_is_raised_by_the_client(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.failure, fake.failure_after = UnavailableError("all retries were lost"), 2
    received = ""

    async def read() -> None:
        nonlocal received
        async for chunk in await client.completions.create(model="demo", prompt="Once", stream=True):
            received += chunk.choices[0].text

    with pytest.raises(openai.APIError, match="all retries were lost"):
        await read()
    assert received
    assert FIRST.startswith(received)


async def test_one_failed_prompt_of_several_fails_the_call_and_frees_the_others(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.failure, fake.failure_after = InternalError("a step failed"), 1
    with pytest.raises(openai.InternalServerError, match="a step failed"):
        await client.completions.create(model="demo", prompt=["One", "Two"])
    assert sorted(fake.closed) == sorted(request.request_id for request in fake.requests)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["Once", ["One", "Two"]])
async def test_a_client_that_goes_away_frees_everything_within_a_second(
    url: str, fake: FakeDispatcher, stream: bool, prompt: str | list[str]
) -> None:
    fake.step_s = 30.0
    body = {"model": "demo", "prompt": prompt, "stream": stream}
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{url}/v1/completions", json=body, timeout=httpx.Timeout(5, read=0.2))
    for _ in range(100):
        if fake.requests and len(fake.closed) == len(fake.requests):
            break
        await asyncio.sleep(0.01)
    assert sorted(fake.closed) == sorted(request.request_id for request in fake.requests)


async def test_a_client_that_leaves_in_mid_stream_closes_the_answer(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.step_s = 0.02
    stream = await client.completions.create(model="demo", prompt="Once", stream=True)
    await anext(aiter(stream))
    await stream.close()
    for _ in range(100):
        if fake.closed:
            break
        await asyncio.sleep(0.01)
    assert fake.closed == [fake.requests[0].request_id]
