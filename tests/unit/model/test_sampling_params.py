"""The table of sampling fields, and that the message, the SDK and the docs have the same fields."""

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

import baton
from baton.errors import InvalidRequestError
from baton.v1 import inference_pb2 as pb
from workers.engine.wire import sampling_params
from workers.model.sampling_params import NEUTRAL, ROWS, SAMPLER_ROWS, SamplingParams

API = Path(__file__).parents[3] / "docs" / "api.md"
KINDS = {
    FieldDescriptor.TYPE_FLOAT: float,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_UINT32: int,
    FieldDescriptor.TYPE_UINT64: int,
}


def wire_kind(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        key, value = field.message_type.fields
        return dict[KINDS[key.type], KINDS[value.type]]  # type: ignore[misc]
    kind = KINDS[field.type]
    return list[kind] if field.is_repeated else kind  # type: ignore[valid-type]


def test_the_message_has_the_tables_fields_and_types() -> None:
    form = "structured_output"  # the ingress alone reads it: workers get a grammar
    fields = [field for field in pb.SamplingParams.DESCRIPTOR.fields if field.name != form]
    assert {field.name: wire_kind(field) for field in fields} == {name: row.kind for name, row in ROWS.items()}


def test_the_sdk_has_the_tables_fields() -> None:
    assert baton.Sampling.__annotations__.keys() == ROWS.keys()


def test_the_docs_have_the_tables_fields() -> None:
    section = API.read_text(encoding="utf-8").partition("### Fields of a request")[2].partition("\n### ")[0]
    documented = {name for row in re.findall(r"^\|([^|]*)\|", section, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert ROWS.keys() - documented == set()


def test_a_number_has_a_range_in_words() -> None:
    numbers = [row for row in ROWS.values() if row.kind in (int, float, dict[int, float])]
    assert all(row.allowed for row in numbers)
    assert [row for row in ROWS.values() if row.allowed and row not in numbers and not row.choices] == []


def test_what_a_model_may_set() -> None:
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert neutral == NEUTRAL
    assert [name for name, value in NEUTRAL.items() if ROWS[name].refusal(name, value)] == []


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("temperature", 0, None),
        ("temperature", -0.5, "t is -0.5; it must be 0 (greedy) or more"),
        ("temperature", float("nan"), "t is nan; it must be a finite number, 0 (greedy) or more"),
        ("temperature", float("inf"), "t is inf; it must be a finite number, 0 (greedy) or more"),
        ("top_p", 1.0, None),
        ("top_p", 0.0, "t is 0; it must be above 0 and at most 1; 1 turns it off"),
        ("top_k", -1, None),
        ("top_k", -2, "t is -2; it must be 0 or -1 (off), or 1 to 2147483647"),
        ("max_tokens", 10**12, None),  # what fits is known with the prompt
        ("max_tokens", 0, None),
        ("max_tokens", -1, "t is -1; it must be at least 1, or 0 with prompt_logprobs or echo"),
        ("prompt_logprobs", 21, "t is 21; it must be between 0 and 20"),
        ("logit_bias", {5: 100.0, 6: -100.0}, None),
        ("logit_bias", {5: 100.0, 6: -101.0}, "t of token 6 is -101; it must be between -100 and 100"),
        ("ignore_eos", True, None),
        ("stop", ["a"], None),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(name: str, value: Any, refusal: str | None) -> None:
    assert ROWS[name].refusal("t", value) == refusal


def test_a_message_is_read_with_defaults_for_what_it_leaves_out() -> None:
    assert sampling_params(pb.SamplingParams(max_tokens=3)) == SamplingParams(max_tokens=3)


def test_each_field_of_a_message_reaches_the_sampler() -> None:
    said: dict[str, Any] = {
        "max_tokens": 3,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.25,
        "seed": 2**64 - 1,
        "stop_token_ids": [7, 3],
        "min_tokens": 1,
        "logit_bias": {9: 1.0, 4: -2.0},
        "logprobs": 0,
        "prompt_logprobs": 2,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 1.5,
        "ignore_eos": True,
        "speculation": "none",
    }
    read = {"top_k": 0, "speculation": False, "stop_token_ids": frozenset({3, 7}), "logit_bias": ((4, -2.0), (9, 1.0))}
    assert said.keys() == SAMPLER_ROWS.keys()
    assert sampling_params(pb.SamplingParams(**said)) == SamplingParams(**(said | read))


def test_a_message_without_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens: none given"):
        sampling_params(pb.SamplingParams(seed=1))
