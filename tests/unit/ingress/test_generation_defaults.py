"""Whose word goes before whose: the request's, then the model folder's, then the neutral one."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.errors import ConfigError
from baton.v1 import inference_pb2 as pb
from cluster.ingress.generation_defaults import effective, generation_defaults
from cluster.ingress.http_api import build_app
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving

MODELS = {"temperature": 0.5, "top_p": 0.75, "top_k": 20, "min_p": 0.125, "repetition_penalty": 1.25}
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
REQUESTS = [
    ("/v1/completions", {"prompt": "Once"}),
    ("/v1/completions", {"prompt": ["Once", [1, 2]], "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
]


@pytest.fixture
def service_and_fake() -> tuple[Service, FakeDispatcher]:
    return demo_service(MODELS)


def folder_with(path: Path, content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    (path / "generation_config.json").write_text(text, encoding="utf-8")
    return str(path)


def asked(fake: FakeDispatcher) -> list[dict[str, Any]]:
    return [{name: getattr(one.sampling, name) for name in MODELS} for one in fake.requests]


def test_the_folders_values_are_read_and_its_other_fields_are_not(tmp_path: Path) -> None:
    others = {
        "do_sample": True,
        "max_new_tokens": 5,
        "num_beams": 4,
        "eos_token_id": [1, 2],
        "transformers_version": "5",
    }
    assert generation_defaults(folder_with(tmp_path, MODELS | others), "model") == MODELS


def test_a_value_that_is_missing_or_null_is_none(tmp_path: Path) -> None:
    assert generation_defaults(str(tmp_path), "model") == {}
    found = generation_defaults(folder_with(tmp_path, {"temperature": None, "top_k": 0, "min_p": 0}), "model")
    assert found == {"top_k": 0, "min_p": 0}
    assert effective(found) == NEUTRAL


def test_neutral_does_not_read_the_file(tmp_path: Path) -> None:
    assert generation_defaults(folder_with(tmp_path, "{"), "neutral") == {}


@pytest.mark.parametrize(
    ("said", "temperature"),
    [
        ({"do_sample": False}, 0.0),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": None}, 1.0),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"temperature": 0.5}, 0.5),
    ],
)
def test_a_model_that_does_not_sample_is_greedy(tmp_path: Path, said: dict[str, Any], temperature: float) -> None:
    assert effective(generation_defaults(folder_with(tmp_path, said), "model"))["temperature"] == temperature


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"temperature": -1},
            "temperature is -1; it must be 0 (greedy) or more. Correct it, or set generation_defaults",
        ),
        ('{"temperature": NaN}', "temperature is nan; it must be a finite number, 0 (greedy) or more"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"temperature": True}, "temperature is True; it must be a number"),
        ({"temperature": [0.5]}, "temperature is [0.5]; it must be a number"),
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_k": "x"}, "top_k is 'x'; it must be a whole number"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"top_k": -2}, "top_k is -2; it must be 0 or -1 (off)"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be between 0 and 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be above 0"),
        ({"do_sample": "no"}, "do_sample is 'no'; it must be true or false"),
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
    ],
)
def test_a_bad_value_is_refused_by_file_and_name(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        generation_defaults(folder_with(tmp_path, content), "model")
    assert message in caught.value.message
    assert str(tmp_path / "generation_config.json") in caught.value.message


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_what_an_http_request_leaves_out_is_the_models(
    http: httpx.AsyncClient, fake: FakeDispatcher, path: str, body: dict[str, Any]
) -> None:
    assert (await http.post(path, json=body | {"temperature": None})).status_code == 200
    assert asked(fake) == [MODELS] * len(fake.requests)
    assert fake.requests


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_what_an_http_request_says_goes_before_the_models(
    http: httpx.AsyncClient, fake: FakeDispatcher, path: str, body: dict[str, Any]
) -> None:
    """Neutral values too: saying them is not leaving them out."""
    assert (await http.post(path, json=body | NEUTRAL)).status_code == 200
    assert (await http.post(path, json=body | {"temperature": 0, "top_k": -1})).status_code == 200
    half = len(fake.requests) // 2
    assert asked(fake) == [NEUTRAL] * half + [MODELS | {"temperature": 0, "top_k": -1}] * half


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, MODELS),
        (NEUTRAL, NEUTRAL),
        ({"temperature": 0.0}, MODELS | {"temperature": 0.0}),
        ({"min_p": 0.0, "top_k": -1}, MODELS | {"min_p": 0.0, "top_k": -1}),
    ],
)
async def test_a_grpc_request_goes_before_the_models_too(
    stub: Any, fake: FakeDispatcher, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    request = pb.GenerateRequest(prompt="Once", sampling=pb.SamplingParams(**said))
    assert [response async for response in stub.Generate(request)]
    assert asked(fake) == [expected]


async def test_without_a_word_of_the_model_nothing_is_said_to_the_worker() -> None:
    service, fake = demo_service()
    async with serving(build_app(service)) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        await client.post("/v1/completions", json={"prompt": "Once"})
        (model,) = (await client.get("/v1/models")).json()["data"]
    assert not any(fake.requests[0].sampling.HasField(name) for name in MODELS)
    assert model["generation_defaults"] == NEUTRAL


async def test_models_tell_their_defaults(http: httpx.AsyncClient, stub: Any) -> None:
    for path in ("/v1/models", "/v1/models/demo"):
        body = (await http.get(path)).json()
        (model,) = body.get("data", [body])
        assert model["generation_defaults"] == MODELS
    (listed,) = (await stub.ListModels(pb.ListModelsRequest())).models
    assert {field.name: value for field, value in listed.generation_defaults.ListFields()} == MODELS
