"""What clients see of their prompts: `echo`, `prompt_logprobs`, whole and streamed, over HTTP and gRPC."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tokenizers import Tokenizer as FastTokenizer

from baton.v1 import inference_pb2 as pb
from cluster.ingress.echo import Echo
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer
from tests.unit.ingress.tokenizers import byte_level, save, sentencepiece_like

PROMPT = "Once upon a time, naïve 🙂 東京!"
ANSWER = "The best of times 0."
USER = [{"role": "user", "content": "Tell me"}]


def content_of(tokens: Sequence[str]) -> bytes:
    """The bytes that tokens of a completion's logprobs stand for."""
    prefix = "bytes:"
    return b"".join(
        bytes.fromhex(token.removeprefix(prefix).replace("\\x", "")) if token.startswith(prefix) else token.encode()
        for token in tokens
    )


async def events(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await http.post(path, json=body | {"stream": True})
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def joined(chunks: Sequence[dict[str, Any]], num_choices: int) -> list[dict[str, Any]]:
    """Streamed choices as a whole answer has them."""
    found: list[dict[str, Any]] = [{"text": ""} for _ in range(num_choices)]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        whole = found[choice["index"]]
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            whole.setdefault("logprobs", {}).setdefault(name, []).extend(values)
        if "prompt_logprobs" in choice:
            whole.setdefault("prompt_logprobs", []).extend(choice["prompt_logprobs"])
    return found


async def test_an_echo_is_the_prompt_and_then_the_answer(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    reply = (await http.post("/v1/completions", json={"prompt": PROMPT, "echo": True})).json()
    assert reply["choices"][0]["text"] == PROMPT + ANSWER
    assert reply["choices"][0]["logprobs"] is None
    assert not fake.requests[0].sampling.HasField("prompt_logprobs")


async def test_an_echo_has_the_logprobs_of_prompt_and_answer(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    body = {"prompt": PROMPT, "echo": True, "logprobs": 2}
    choice = (await http.post("/v1/completions", json=body)).json()["choices"][0]
    logprobs, num_prompt = choice["logprobs"], len(fake.requests[0].prompt_token_ids)
    assert fake.requests[0].sampling.prompt_logprobs == 2
    assert {len(values) for values in logprobs.values()} == {len(logprobs["tokens"])}
    assert logprobs["token_logprobs"][:3] == [None, -0.25, -0.5]
    assert logprobs["token_logprobs"][num_prompt:] == [-0.5] * (len(logprobs["tokens"]) - num_prompt)
    assert logprobs["top_logprobs"][0] is None
    name = demo_tokenizer().token_name
    assert logprobs["top_logprobs"][1] == {name(20): -0.125, name(21): -0.125, logprobs["tokens"][1]: -0.25}
    assert (
        content_of(logprobs["tokens"][:-1]) == choice["text"].encode()
    )  # the last one ends the text, and is not in it
    for token, offset in zip(logprobs["tokens"][:-1], logprobs["text_offset"], strict=False):
        if not token.startswith("bytes:"):
            assert choice["text"][offset : offset + len(token)] == token
    assert logprobs["text_offset"][num_prompt] == len(PROMPT)


async def test_a_streamed_echo_adds_up_to_the_whole_one(http: httpx.AsyncClient) -> None:
    asks: list[dict[str, Any]] = [{}, {"logprobs": 0}, {"logprobs": 3, "prompt_logprobs": 1}]
    prompts = [PROMPT, [PROMPT, "Once"], [[7, 8, 9], [300]]]
    for n, more, prompt, max_tokens in itertools.product((1, 2), asks, prompts, (0, 5)):
        body = {"prompt": prompt, "echo": True, "n": n, "max_tokens": max_tokens, **more}
        whole = (await http.post("/v1/completions", json=body)).json()["choices"]
        streamed = joined(await events(http, "/v1/completions", body), len(whole))
        assert len(whole) == n * (1 if prompt == PROMPT else 2)
        for one, other in zip(whole, streamed, strict=True):
            assert {name: one[name] for name in other} == other, body
            assert one["finish_reason"] == "length"


async def test_max_tokens_of_0_shows_the_prompt_alone(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="demo", prompt=PROMPT, echo=True, max_tokens=0, logprobs=1)
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert content_of(choice.logprobs.tokens) == PROMPT.encode()
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, reply.usage.prompt_tokens) == (0, len(choice.logprobs.tokens))


async def test_special_tokens_in_a_text_come_back_as_they_were_sent(http: httpx.AsyncClient) -> None:
    text = "<|user|>Hi<|eot|>\n"
    body = {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 0}
    choice = (await http.post("/v1/completions", json=body)).json()["choices"][0]
    assert choice["text"] == text
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert [text[at:].startswith(token) for token, at in zip(tokens, offsets, strict=True)] == [True] * len(tokens)


async def test_prompt_logprobs_of_a_completion_have_vllms_shape(http: httpx.AsyncClient) -> None:
    body = {"prompt": [7, 8, 9, 10, 11], "prompt_logprobs": 1, "max_tokens": 2, "n": 2}
    choices = (await http.post("/v1/completions", json=body)).json()["choices"]
    text = demo_tokenizer().token_text
    for choice in choices:
        assert choice["text"] == "The best"
        assert len(choice["prompt_logprobs"]) == 5
        assert choice["prompt_logprobs"][0] is None
        assert choice["prompt_logprobs"][4] == {
            "11": {"logprob": -1.0, "rank": 2, "decoded_token": text(11)},
            "20": {"logprob": -0.125, "rank": 1, "decoded_token": text(20)},
        }
    streamed = joined(await events(http, "/v1/completions", body), 2)
    assert [one["prompt_logprobs"] for one in streamed] == [one["prompt_logprobs"] for one in choices]
    plain = (await http.post("/v1/completions", json=body | {"prompt_logprobs": None})).json()["choices"]
    assert "prompt_logprobs" not in plain[0]


async def test_prompt_logprobs_of_a_chat_are_the_answers(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    body = {"messages": USER, "prompt_logprobs": 2, "n": 2}
    reply = (await http.post("/v1/chat/completions", json=body)).json()
    shown = reply["prompt_logprobs"]
    assert [entry is None for entry in shown] == [True] + [False] * (len(fake.requests[0].prompt_token_ids) - 1)
    assert shown[1][str(fake.requests[0].prompt_token_ids[1])]["rank"] == 2
    chunks = await events(http, "/v1/chat/completions", body)
    assert [entry for chunk in chunks for entry in chunk.get("prompt_logprobs", ())] == shown
    only = (await http.post("/v1/chat/completions", json=body | {"n": 1, "max_completion_tokens": 0})).json()
    assert only["choices"][0]["message"]["content"] == ""
    assert only["choices"][0]["finish_reason"] == "length"
    assert only["prompt_logprobs"] == shown


async def test_a_prompt_of_one_token_has_nothing_before_it(http: httpx.AsyncClient, stub: Any) -> None:
    body = {"prompt": [7], "prompt_logprobs": 1, "max_tokens": 0}
    assert (await http.post("/v1/completions", json=body)).json()["choices"][0]["prompt_logprobs"] == [None]
    request = pb.GenerateRequest(
        prompt_token_ids=pb.TokenIds(ids=[7]), sampling=pb.SamplingParams(prompt_logprobs=1, max_tokens=0)
    )
    responses = [response async for response in stub.Generate(request)]
    (entry,) = [entry for response in responses for entry in response.prompt_logprobs]
    assert (entry.sampled.token_id, entry.sampled.rank) == (7, 0)


async def test_grpc_tells_of_a_prompt_before_its_answer(stub: Any) -> None:
    sampling = pb.SamplingParams(prompt_logprobs=2, n=2, max_tokens=1)
    request = pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[7, 8, 9, 10, 11]), sampling=sampling)
    responses = [response async for response in stub.Generate(request)]
    first_delta = next(place for place, response in enumerate(responses) if response.deltas)
    entries = [entry for response in responses[:first_delta] for entry in response.prompt_logprobs]
    assert not any(response.prompt_logprobs for response in responses[first_delta:])
    assert [entry.sampled.token_id for entry in entries] == [7, 8, 9, 10, 11]
    assert [entry.sampled.logprob for entry in entries] == [0.0, -0.25, -0.5, -0.75, -1.0]
    assert [(token.token_id, token.rank) for token in entries[1].top] == [(20, 1), (21, 2)]
    assert all(entry.sampled.text for entry in entries)


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_parts_of_characters_add_up_to_the_text(
    http: httpx.AsyncClient, fake: FakeDispatcher, stream: bool
) -> None:
    fake.answer = "naïve 🙂 東京 👩‍👩‍👧"
    body: dict[str, Any] = {"prompt": "Once", "logprobs": 0}
    chat: dict[str, Any] = {"messages": USER, "logprobs": True}
    if stream:
        (choice,) = joined(await events(http, "/v1/completions", body), 1)
        chunks = await events(http, "/v1/chat/completions", chat)
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        entries = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    else:
        choice = (await http.post("/v1/completions", json=body)).json()["choices"][0]
        answer = (await http.post("/v1/chat/completions", json=chat)).json()["choices"][0]
        text, entries = answer["message"]["content"], answer["logprobs"]["content"]
    assert choice["text"] == text == fake.answer
    tokens = choice["logprobs"]["tokens"]
    assert any(token.startswith("bytes:") for token in tokens)
    assert content_of(tokens[:-1]) == text.encode()
    assert b"".join(bytes(entry["bytes"]) for entry in entries[:-1]) == text.encode()


@pytest.mark.parametrize("make", [byte_level, sentencepiece_like])
def test_an_echo_says_where_tokens_lie(make: Callable[[], FastTokenizer], tmp_path: Path) -> None:
    tokenizer = Tokenizer(str(save(make(), tmp_path)))
    for text in ("it was the hat", "the e\u0301t 東京 the", "  it   was"):
        token_ids = tokenizer.encode(text)
        echo = Echo(tokenizer, token_ids, text)
        assert echo.text == text
        assert echo.offsets == sorted(echo.offsets)
        assert "".join(echo.piece(at, at + 1) for at in range(len(token_ids))) == text
        as_ids = Echo(tokenizer, token_ids, None)
        assert "".join(as_ids.piece(at, at + 2) for at in range(0, len(token_ids), 2)) == as_ids.text
