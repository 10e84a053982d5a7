"""Every refusal names the field, the value and the fix, in OpenAI's shape, and reaches no worker."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.errors import InvalidRequestError
from cluster.config.schema import RouterConfig
from cluster.ingress.openai import Prompt
from cluster.ingress.sampling import SamplingOptions
from cluster.ingress.service import Service
from cluster.ingress.services import Services
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.fakes import FakeDispatcher
from tests.unit.ingress.tokenizers import byte_level, save

COMPLETION = {"model": "demo", "prompt": "Once"}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}

BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "prompt", "prompt is empty; send at least one character"),
    ({"prompt": []}, "prompt", "prompt is an empty list; send at least one prompt"),
    ({"prompt": ["ok", ""]}, "prompt", "prompt[1] is empty; send at least one character"),
    ({"prompt": None}, "prompt", "prompt is missing; send it"),
    ({"prompt": 5}, "prompt", "prompt is 5; send a string, a list of token ids, or a list of either"),
    ({"prompt": [[1], []]}, "prompt", "prompt[1] is []; send a string or a list of at least one token id"),
    ({"prompt": [1, True]}, "prompt", "prompt[0] is 1; send a string or a list of at least one token id"),
    ({"prompt": [4096]}, "prompt", "prompt has token id 4096; ids of this model are between 0 and 4095"),
    ({"prompt": [-1]}, "prompt", "prompt has token id -1; ids of this model are between 0 and 4095"),
    ({"prompt": "\ud800"}, "prompt", "prompt is not Unicode text"),
    ({"prompt": [1] * 3000}, "prompt", "prompt has 3000 tokens, which with one token of answer is over the context of"),
    (
        {"prompt": [1] * 1500},
        "prompt",
        "is over the 1024 tokens that a worker's blocks hold; shorten it to at most 1023",
    ),
    ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be at least 1"),
    ({"max_tokens": -4}, "max_tokens", "max_tokens is -4; it must be at least 1"),
    ({"prompt": [1] * 4, "max_tokens": 5000}, "max_tokens", "leaves 1020 of 1024; ask for at most 1020"),
    ({"max_tokens": -(10**4000)}, "max_tokens", "; it must be at least 1"),
    ({"seed": 10**4000}, "seed", "seed is 1000"),
    ({"max_tokens": "5"}, "max_tokens", 'max_tokens is "5"; it must be a whole number'),
    ({"max_tokens": 1.5}, "max_tokens", "max_tokens is 1.5; it must be a whole number"),
    ({"max_tokens": True}, "max_tokens", "max_tokens is true; it must be a whole number"),
    ({"temperature": -0.1}, "temperature", "temperature is -0.1; it must be 0 (greedy) or more"),
    ({"temperature": "hot"}, "temperature", 'temperature is "hot"; it must be a number'),
    ({"temperature": 1e400}, "temperature", "temperature"),
    ({"top_p": 0}, "top_p", "top_p is 0; it must be above 0 and at most 1"),
    ({"top_p": 1.1}, "top_p", "top_p is 1.1"),
    ({"top_k": -2}, "top_k", "top_k is -2; it must be 0 or -1 (off)"),
    ({"speculation": "draft"}, "speculation", "speculation is 'draft'; it must be 'auto' or 'none'"),
    ({"min_p": 2}, "min_p", "min_p is 2; it must be between 0 and 1"),
    ({"n": 0}, "n", "n is 0; it must be between 1 and 128"),
    ({"n": 129}, "n", "n is 129"),
    ({"prompt": ["a"] * 20, "n": 64}, "n", "n is 64, which for 20 prompts makes 1280 answers; ask for at most 1024"),
    ({"prompt": "word " * 10**6}, "prompt", "prompt has 5000000 characters, and over "),
    ({"stop": ""}, "stop", "stop has an empty string; leave it out"),
    ({"stop": 5}, "stop", "stop is 5; it must be a string or a list of strings"),
    ({"stop": ["a", 5]}, "stop", "stop[1] is 5; it must be a string"),
    ({"stop": ["x"] * 65}, "stop", "stop has 65 strings; send at most 64"),
    ({"stop": "x" * 2000}, "stop", "stop has a string of 2000 characters; use at most 1024"),
    ({"stop_token_ids": [99999]}, "stop_token_ids", "stop_token_ids has token id 99999"),
    ({"min_tokens": -1}, "min_tokens", "min_tokens is -1; it must be between 0 and max_tokens"),
    ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", "min_tokens is 9, above max_tokens of 5; lower it"),
    ({"seed": 2**64}, "seed", "seed is 18446744073709551616; it must be between"),
    ({"top_k": 10**12}, "top_k", "top_k is 1000000000000; it must be 0 or -1 (off), or 1 to 2147483647"),
    ({"logit_bias": {"x": 1}}, "logit_bias", 'logit_bias has the key "x"; keys are token ids'),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", 'logit_bias has the key "999'),
    ({"logit_bias": {"\N{ARABIC-INDIC DIGIT THREE}": 1}}, "logit_bias", "; keys are token ids"),
    ({"logit_bias": {"5000": 1}}, "logit_bias", "logit_bias has token id 5000"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "logit_bias of token 5 is 101; it must be between -100 and 100"),
    ({"logit_bias": [1]}, "logit_bias", "logit_bias is [1]; it must be an object"),
    ({"logprobs": 21}, "logprobs", "logprobs is 21; it must be between 0 and 20"),
    ({"logprobs": True}, "logprobs", "logprobs is true; it must be a whole number"),
    ({"presence_penalty": 3}, "presence_penalty", "presence_penalty is 3; it must be between -2 and 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "frequency_penalty is -2.5"),
    ({"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty is 0; it must be above 0"),
    ({"stream": "yes"}, "stream", 'stream is "yes"; it must be true or false'),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream to be true"),
    ({"stream": True, "stream_options": {"usage": 1}}, "stream_options", "stream_options.usage is not a field of"),
    ({"echo": 1}, "echo", "echo is 1; it must be true or false"),
    ({"echo": True, "logprobs": 21}, "logprobs", "logprobs is 21; it must be between 0 and 20"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "prompt_logprobs is 21; it must be between 0 and 20"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", "prompt_logprobs is -1; it must be between 0 and 20"),
    ({"prompt_logprobs": True}, "prompt_logprobs", "prompt_logprobs is true; it must be a whole number"),
    (
        {"prompt": [[1] * 1000] * 100, "max_tokens": 0, "echo": True, "logprobs": 10},
        "logprobs",
        "logprobs is 10, which for 100000 tokens of prompts and n of 1 makes 1100000 values; ask for",
    ),
    ({"max_tokens": 0, "logprobs": 1}, "max_tokens", "or 0 with prompt_logprobs or echo"),
    ({"max_tokens": 0, "echo": True, "min_tokens": 1}, "min_tokens", "min_tokens is 1, above max_tokens of 0"),
    ({"max_tokens": 0, "echo": True, "prompt": [1] * 1025}, "prompt", "prompt has 1025 tokens, which is over the 1024"),
    ({"suffix": "end"}, "suffix", 'suffix is "end"; this server does not support suffix'),
    ({"best_of": 3}, "best_of", "best_of is 3; this server does not support best_of: send best_of equal to n"),
    ({"temprature": 1}, "temprature", "temprature is not a field of this request; did you mean temperature?"),
    ({"zzz": 1}, "zzz", "zzz is not a field of this request; leave it out"),
    ({"messages": []}, "messages", "messages is not a field of this request"),
]

BAD_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "messages is empty; send at least one message"),
    ({"messages": "hi"}, "messages", 'messages is "hi"; it must be a list'),
    ({"messages": ["hi"]}, "messages", 'messages[0] is "hi"; send an object with role and content'),
    ({"messages": [{"role": "king", "content": "a"}]}, "messages", 'messages[0].role is "king"; use one of assistant'),
    (
        {"messages": [{"role": "user"}]},
        "messages",
        "messages[0].content is null; send a string or a list of text parts",
    ),
    ({"messages": [{"role": "user", "content": 5}]}, "messages", "messages[0].content is 5"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages",
        'messages[0].content[0].type is "image_url"; this server reads parts of type text alone',
    ),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "messages",
        "messages[0].tool_calls[0].id is null; send the id that the call came with",
    ),
    ({"messages": [{"role": "user", "content": "word " * 10**6}]}, "messages", "messages has 5000"),
    ({"prompt": "x"}, "prompt", "prompt is not a field of this request; leave it out"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0; it must be at least 1"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens", "max_tokens is 4 and max_completion_tokens is 5"),
    ({"top_logprobs": 2}, "top_logprobs", "top_logprobs is 2 but logprobs is not true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs is 21; it must be between 0 and 20"),
    ({"logprobs": 1}, "logprobs", "logprobs is 1; it must be true or false"),
    ({"functions": [{}]}, "functions", "this server does not support functions: send tools, its newer name"),
    ({"function_call": {"name": "x"}}, "function_call", "does not support function_call: send tool_choice, its newer"),
    ({"response_format": {"type": "xml"}}, "response_format", 'response_format is {"type": "xml"}; its type must be'),
    ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend", "does not support guided_decoding_backend"),
    ({"audio": {"voice": "x"}}, "audio", "this server does not support audio"),
    ({"modalities": ["audio"]}, "modalities", "this server does not support modalities"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "reasoning_effort is \"huge\"; it must be 'none', 'minimal',"),
]


@pytest.mark.parametrize(("change", "field", "message"), BAD_COMPLETIONS)
async def test_a_bad_completion_is_refused_by_name(
    http: httpx.AsyncClient, fake: FakeDispatcher, change: dict[str, Any], field: str, message: str
) -> None:
    reply = await http.post("/v1/completions", content=json.dumps(COMPLETION | change))
    if change.get("temperature") == float("inf"):
        assert "Infinity is not a JSON number" in reply.json()["error"]["message"]
    else:
        assert reply.json()["error"]["param"] == field
        assert message in reply.json()["error"]["message"]
        assert reply.json()["error"]["type"] == "invalid_request_error"
        assert reply.json()["error"]["code"] == "invalid_request"
    assert reply.status_code == 400
    assert fake.requests == []


@pytest.mark.parametrize(("change", "field", "message"), BAD_CHATS)
async def test_a_bad_chat_is_refused_by_name(
    http: httpx.AsyncClient, fake: FakeDispatcher, change: dict[str, Any], field: str, message: str
) -> None:
    reply = await http.post("/v1/chat/completions", json=CHAT | change)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == field
    assert message in reply.json()["error"]["message"]
    assert fake.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b'{"prompt": ', "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[1]", "the body is [1]; send one JSON object"),
        (b"null", "the body is null; send one JSON object"),
        (b"[" * 100_000, "the body is nested too deeply; nest less"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
    ],
)
async def test_a_body_that_is_no_object_is_refused(http: httpx.AsyncClient, body: bytes, message: str) -> None:
    reply = await http.post("/v1/completions", content=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


async def test_an_unknown_model_is_404(http: httpx.AsyncClient) -> None:
    for path, body in [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT), ("/tokenize", {"prompt": "a"})]:
        reply = await http.post(path, json=body | {"model": "gpt-4"})
        assert reply.status_code == 404
        assert reply.json()["error"]["message"] == 'model is "gpt-4"; this server serves "demo" alone'
        assert reply.json()["error"]["code"] == "model_not_found"


async def test_half_a_surrogate_pair_in_a_message_is_refused_as_messages(http: httpx.AsyncClient) -> None:
    body = CHAT | {"messages": [{"role": "user", "content": "\ud800"}]}
    reply = await http.post("/v1/chat/completions", content=json.dumps(body))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")
    assert "messages is not Unicode text" in reply.json()["error"]["message"]


async def test_a_text_with_a_token_that_the_model_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    folder = save(byte_level(), tmp_path)
    (folder / "config.json").write_text('{"vocab_size": 300}')
    tokenizer = Tokenizer(str(folder))
    service = Service(dispatcher=FakeDispatcher(tokenizer), tokenizer=tokenizer, model="m", router=RouterConfig())
    token_ids = await service.token_ids(Prompt(text="\N{RIGHTWARDS ARROW}added"), service.limits())
    with pytest.raises(InvalidRequestError, match=r"prompt has token id .*; ids of this model are between 0 and 299"):
        service.call([token_ids], SamplingOptions(), model=None, route="completions")


async def test_an_unknown_path_or_method_says_what_there_is(http: httpx.AsyncClient) -> None:
    wrong_method = await http.get("/v1/completions")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong_method.json()["error"]["type"] == "invalid_request_error"
    assert wrong_method.json()["error"]["message"] == "GET /v1/completions: this path takes POST alone"
    wrong_path = await http.get("/v2/models")
    assert (wrong_path.status_code, wrong_path.json()["error"]["code"]) == (404, "not_found")
    assert wrong_path.json()["error"]["message"] == "GET /v2/models: no such path; the API is below /v1"


async def test_values_that_mean_off_are_accepted(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    off = {"echo": False, "suffix": None, "best_of": 2, "n": 2, "logprobs": None, "use_beam_search": False}
    assert (await http.post("/v1/completions", json=COMPLETION | off)).status_code == 200
    off = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "modalities": ["text"]}
    assert (await http.post("/v1/chat/completions", json=CHAT | off)).status_code == 200
    assert len(fake.requests) == 2


async def test_a_model_may_be_left_out(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/completions", json={"prompt": "Once"})).status_code == 200


async def test_before_a_worker_has_reported_the_answer_is_503_with_retry_after(
    http: httpx.AsyncClient, fake: FakeDispatcher
) -> None:
    fake.max_model_len = 0
    reply = await http.post("/v1/completions", json=COMPLETION)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert "no worker has reported" in reply.json()["error"]["message"]


async def test_a_fault_of_the_server_is_an_error_in_openai_shape_too(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Services, "of", fail)
    reply = await http.post("/v1/completions", json=COMPLETION)
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert reply.json()["error"]["message"] == "POST /v1/completions failed: RuntimeError"
    counted = 'baton_requests_total{model="",route="completions",status="internal"} 1.0'
    assert counted in (await http.get("/metrics")).text
