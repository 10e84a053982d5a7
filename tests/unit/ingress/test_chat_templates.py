"""Templates by name: from tokenizer_config.json, from files, and as requests choose them."""

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from baton.errors import ConfigError, InvalidRequestError
from baton.v1 import inference_pb2 as pb
from cluster.ingress.service import Service
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.fakes import FakeDispatcher, demo_service
from tests.unit.ingress.tokenizers import byte_level, save

MESSAGES = [{"role": "user", "content": "hi"}]
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
TOOLS = "with tools: " + PLAIN
NAMED = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}]
UNKNOWN = 'chat_template is "rag"; it names one of this model\'s templates: default, tool_use'


def make(folder: Path, settings: Any = None, **files: str) -> Tokenizer:
    save(byte_level(), folder, json.dumps({} if settings is None else {"chat_template": settings}))
    (folder / "additional_chat_templates").mkdir()
    for name, text in files.items():
        path = "chat_template" if name == "default" else f"additional_chat_templates/{name}"
        (folder / f"{path}.jinja").write_text(text, encoding="utf-8")
    return Tokenizer(str(folder))


@pytest.fixture
def service_and_fake(tmp_path: Path) -> tuple[Service, FakeDispatcher]:
    return demo_service(tokenizer=make(tmp_path, NAMED))


def test_a_list_in_the_config_names_templates(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, NAMED)
    assert tokenizer.chat_templates == ("default", "tool_use")
    assert tokenizer.render_chat(MESSAGES) == tokenizer.render_chat(MESSAGES, "default") == "hi"
    assert tokenizer.render_chat(MESSAGES, "tool_use") == "with tools: hi"


def test_files_name_templates(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None, default=PLAIN, tool_use=TOOLS)
    assert tokenizer.chat_templates == ("default", "tool_use")
    assert tokenizer.render_chat(MESSAGES) == "hi"
    assert tokenizer.render_chat(MESSAGES, "tool_use") == "with tools: hi"


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template={"default": PLAIN, "tool_use": TOOLS})
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer(str(tmp_path))
    assert ours.chat_templates == ("default", "tool_use")
    for name in ours.chat_templates:
        expected = theirs.apply_chat_template(MESSAGES, chat_template=name, tokenize=False, add_generation_prompt=True)
        assert ours.render_chat(MESSAGES, name) == expected


def test_a_file_goes_before_the_config(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, NAMED, tool_use="from a file")
    assert tokenizer.render_chat(MESSAGES, "tool_use") == "from a file"
    assert tokenizer.render_chat(MESSAGES) == "hi"


def test_without_a_default_one_has_to_be_named(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, NAMED[1:])
    assert tokenizer.render_chat(MESSAGES, "tool_use") == "with tools: hi"
    with pytest.raises(InvalidRequestError, match=r"chat_template is missing .* name one of tool_use") as caught:
        tokenizer.render_chat(MESSAGES)
    assert caught.value.field == "chat_template"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (5, "chat_template[0] is 5; it must be a text, or a list of objects with the texts name and template"),
        (["{{ x }}"], 'chat_template[0] is "{{ x }}"; it must be'),
        ([NAMED[0], {"name": "tool_use"}], 'chat_template[1] is {"name": "tool_use"}; it must be'),
        ([NAMED[0], {"name": "tool_use", "template": "{% if %}"}], "the chat template 'tool_use' in "),
    ],
)
def test_a_bad_template_is_refused_by_name_at_the_start(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, settings)
    assert message in caught.value.message


async def test_an_http_request_chooses_a_template(
    http: httpx.AsyncClient, fake: FakeDispatcher, service: Service
) -> None:
    for extra in ({}, {"chat_template": "default"}, {"chat_template": "tool_use", "stream": True}):
        reply = await http.post("/v1/chat/completions", json={"messages": MESSAGES} | extra)
        assert reply.status_code == 200
    prompts = [service.tokenizer.decode(request.prompt_token_ids) for request in fake.requests]
    assert prompts == ["hi", "hi", "with tools: hi"]
    tokens = (await http.post("/tokenize", json={"messages": MESSAGES, "chat_template": "tool_use"})).json()["tokens"]
    assert tokens == list(fake.requests[2].prompt_token_ids)
    assert (await http.get("/v1/models")).json()["data"][0]["chat_templates"] == ["default", "tool_use"]


async def test_a_grpc_request_chooses_a_template(stub: Any, fake: FakeDispatcher, service: Service) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], chat_template="tool_use")
    assert [response async for response in stub.Generate(pb.GenerateRequest(chat=chat))]
    assert service.tokenizer.decode(fake.requests[0].prompt_token_ids) == "with tools: hi"
    tokens = (await stub.Tokenize(pb.TokenizeRequest(chat=chat))).token_ids
    assert list(tokens) == list(fake.requests[0].prompt_token_ids)
    (model,) = (await stub.ListModels(pb.ListModelsRequest())).models
    assert list(model.chat_templates) == ["default", "tool_use"]


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("/v1/chat/completions", {"chat_template": "rag"}, UNKNOWN),
        ("/tokenize", {"chat_template": "rag"}, UNKNOWN),
        (
            "/v1/chat/completions",
            {"chat_template": "{{ messages }}"},
            'chat_template is "{{ messages }}"; it names one of this model\'s templates: default, tool_use',
        ),
        ("/v1/chat/completions", {"chat_template": 5}, "chat_template is 5; it must be a string"),
        (
            "/tokenize",
            {"chat_template": "default", "messages": None, "prompt": "x"},
            "chat_template is for messages, not for a prompt; leave it out",
        ),
        (
            "/v1/completions",
            {"chat_template": "default", "messages": None, "prompt": "x"},
            "chat_template is not a field of this request",
        ),
    ],
)
async def test_a_template_that_cannot_be_used_is_a_400(
    http: httpx.AsyncClient, fake: FakeDispatcher, path: str, change: dict[str, Any], message: str
) -> None:
    body = {name: value for name, value in ({"messages": MESSAGES} | change).items() if value is not None}
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "chat_template")
    assert message in reply.json()["error"]["message"]
    assert fake.requests == []


async def test_an_unknown_template_over_grpc_is_named_too(stub: Any) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], chat_template="rag")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(chat=chat)).read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == UNKNOWN
    assert dict(caught.value.trailing_metadata())["baton-error-field"] == "chat_template"
