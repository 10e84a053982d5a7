"""What requests ask of an answer's form, in each of the ways in which they can."""

import json
from typing import Any

import pytest

from baton.errors import InvalidRequestError
from baton.v1 import inference_pb2
from cluster.ingress.structured.message import form_of_message
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tag, Tagged
from cluster.ingress.structured.parsing import parse_structured

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TAG = {"begin": "<f=x>", "schema": SCHEMA, "end": "</f>"}
TAGGED = Tagged((Tag("<f=x>", SCHEMA, "</f>"),), ("<f=",))
STRUCTURES = {"type": "structural_tag", "structures": [TAG], "triggers": ["<f="]}
TRIGGERED = {
    "type": "structural_tag",
    "format": {
        "type": "triggered_tags",
        "triggers": ["<f="],
        "tags": [{"begin": "<f=x>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</f>"}],
    },
}

GOOD: list[tuple[dict[str, Any], StructuredOutput | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": None, "guided_json": None}, None),
    ({"response_format": {"type": "json_object"}}, JsonSchema({"type": "object"})),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, JsonSchema(SCHEMA)),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "description": "d", "strict": True, "schema": SCHEMA},
            }
        },
        JsonSchema(SCHEMA),
    ),
    ({"response_format": STRUCTURES}, TAGGED),
    ({"structured_outputs": {"json": SCHEMA}}, JsonSchema(SCHEMA)),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JsonSchema(SCHEMA)),
    ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, JsonSchema(SCHEMA, whitespace=False)),
    ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": None, "regex": None}}, JsonSchema(SCHEMA)),
    ({"structured_outputs": {"json_object": True}}, JsonSchema({"type": "object"})),
    ({"structured_outputs": {"regex": "a+", "json_object": False}}, Regex("a+")),
    ({"structured_outputs": {"choice": ["a", "b", "a"]}}, Choice(("a", "b"))),
    ({"structured_outputs": {"grammar": "start: A"}}, Lark("start: A")),
    ({"structured_outputs": {"structural_tag": STRUCTURES}}, TAGGED),
    ({"structured_outputs": {"structural_tag": json.dumps(TRIGGERED)}}, TAGGED),
    ({"guided_json": SCHEMA}, JsonSchema(SCHEMA)),
    ({"guided_regex": "a+"}, Regex("a+")),
    ({"guided_choice": ["a"]}, Choice(("a",))),
    ({"guided_grammar": "root ::= x"}, Lark("root ::= x")),
    ({"guided_regex": "a+", "structured_outputs": {"regex": "a+"}}, Regex("a+")),
    ({"guided_regex": "a+", "response_format": {"type": "text"}}, Regex("a+")),
]

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", 'response_format is "json"; its type must be "text", "json_obj'),
    ({"response_format": {}}, "response_format", "response_format is {}; its type must be"),
    ({"response_format": {"type": "xml"}}, "response_format", 'response_format is {"type": "xml"}; its type must be'),
    (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        "response_format",
        'response_format.schema does not go with type "json_object"; send type "json_schema"',
    ),
    ({"response_format": {"type": "json_schema"}}, "response_format", "response_format.json_schema is null; send an"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format",
        "response_format.json_schema.schema is missing; send a JSON schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
        "response_format",
        "response_format.json_schema.schema is []; a JSON schema is an object",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}},
        "response_format",
        'response_format.json_schema.strict is "yes"; it must be true or false',
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strcit": True}}},
        "response_format",
        "response_format.json_schema.strcit is not known here; leave it out (known: name, description, schema, strict)",
    ),
    (
        {"response_format": {"type": "json_object"}, "guided_regex": "a"},
        "guided_regex",
        "response_format and guided_regex ask for different forms of the same answer; send one of them",
    ),
    ({"guided_json": "{"}, "guided_json", 'guided_json is "{", which is no JSON'),
    ({"guided_json": "[" * 5000}, "guided_json", "guided_json is nested too deeply; nest less"),
    ({"guided_json": 5}, "guided_json", "guided_json is 5; a JSON schema is an object"),
    ({"guided_regex": 5}, "guided_regex", "guided_regex is 5; it must be a text, not empty"),
    ({"guided_regex": ""}, "guided_regex", 'guided_regex is ""; it must be a text, not empty'),
    ({"guided_choice": []}, "guided_choice", "guided_choice is []; it must be a list of texts, not empty"),
    ({"guided_choice": "a"}, "guided_choice", 'guided_choice is "a"; it must be a list of texts'),
    ({"guided_choice": ["a", 1]}, "guided_choice", 'guided_choice is ["a", 1]; it must be a list of texts'),
    ({"guided_grammar": {}}, "guided_grammar", "guided_grammar is {}; it must be a text"),
    ({"structured_outputs": []}, "structured_outputs", "structured_outputs is []; send an object with one of json, "),
    ({"structured_outputs": {}}, "structured_outputs", "structured_outputs asks for nothing; send one of json, regex"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "has json and regex; send one of them"),
    ({"structured_outputs": {"jsn": {}}}, "structured_outputs", "structured_outputs.jsn is not known here"),
    ({"structured_outputs": {"json_object": 1}}, "structured_outputs", "json_object is 1; it must be true or false"),
    (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
        "structured_outputs",
        'structured_outputs.whitespace_pattern is " ", which is not supported; leave it out, or send disable_any',
    ),
    (
        {"structured_outputs": {"json": {}, "disable_additional_properties": True}},
        "structured_outputs",
        "say additionalProperties: false in the schema",
    ),
    (
        {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
        "structured_outputs",
        "structured_outputs.disable_any_whitespace is true, which is for json alone, not for regex",
    ),
    (
        {"structured_outputs": {"structural_tag": "x"}},
        "structured_outputs",
        'structured_outputs.structural_tag is "x", which is no JSON',
    ),
    (
        {"response_format": {**STRUCTURES, "triggers": ["<g"]}},
        "response_format",
        'response_format has a tag that begins with "<f=x>"; it must begin with one of triggers',
    ),
    ({"response_format": {**STRUCTURES, "structures": []}}, "response_format", "response_format.structures is []; it"),
    ({"response_format": {**STRUCTURES, "triggers": [""]}}, "response_format", 'triggers[0] is ""; it must be a text,'),
    (
        {"response_format": {**STRUCTURES, "structures": [{**TAG, "schema": 5}]}},
        "response_format",
        "response_format.structures[0].schema is 5; a JSON schema is an object",
    ),
    (
        {"response_format": {"type": "structural_tag", "format": {"type": "sequence"}}},
        "response_format",
        'response_format.format is of type "sequence"; this server has "triggered_tags" alone',
    ),
    (
        {"response_format": {"type": "structural_tag", "format": {**TRIGGERED["format"], "at_least_one": True}}},  # type: ignore[dict-item]
        "response_format",
        "response_format.format.at_least_one is true, which is not supported",
    ),
]


@pytest.mark.parametrize(("body", "form"), GOOD)
def test_a_body_asks_for_a_form(body: dict[str, Any], form: StructuredOutput | None) -> None:
    assert parse_structured(body) == form


@pytest.mark.parametrize(("body", "field", "message"), BAD)
def test_a_bad_form_is_refused_by_name_value_and_fix(body: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_structured(body)
    assert caught.value.field == field
    assert message in caught.value.message


MESSAGES: list[tuple[inference_pb2.StructuredOutput, StructuredOutput]] = [
    (inference_pb2.StructuredOutput(json_schema=json.dumps(SCHEMA)), JsonSchema(SCHEMA)),
    (
        inference_pb2.StructuredOutput(json_schema=json.dumps(SCHEMA), no_whitespace=True),
        JsonSchema(SCHEMA, whitespace=False),
    ),
    (inference_pb2.StructuredOutput(json_object=True), JsonSchema({"type": "object"})),
    (inference_pb2.StructuredOutput(regex="a+"), Regex("a+")),
    (inference_pb2.StructuredOutput(choice=inference_pb2.Choices(texts=["a", "b"])), Choice(("a", "b"))),
    (inference_pb2.StructuredOutput(grammar="start: A"), Lark("start: A")),
    (inference_pb2.StructuredOutput(structural_tag=json.dumps(STRUCTURES)), TAGGED),
]


@pytest.mark.parametrize(("message", "form"), MESSAGES)
def test_a_message_asks_for_a_form(message: inference_pb2.StructuredOutput, form: StructuredOutput) -> None:
    found = form_of_message(inference_pb2.SamplingParams(structured_output=message))
    assert found == form
    assert found is not None
    assert found.named.startswith("structured_output.")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (inference_pb2.StructuredOutput(), "structured_output says nothing; set one of json_schema, json_object"),
        (inference_pb2.StructuredOutput(json_object=False), "structured_output.json_object is false"),
        (inference_pb2.StructuredOutput(json_schema="{"), "structured_output.json_schema is"),
        (inference_pb2.StructuredOutput(choice=inference_pb2.Choices()), "structured_output.choice is []"),
        (inference_pb2.StructuredOutput(regex=""), "structured_output.regex is"),
        (inference_pb2.StructuredOutput(regex="a", no_whitespace=True), "structured_output.no_whitespace is true"),
    ],
)
def test_a_bad_message_is_refused_by_name(message: inference_pb2.StructuredOutput, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        form_of_message(inference_pb2.SamplingParams(structured_output=message))
    assert caught.value.field == "structured_output"
    assert words in caught.value.message
