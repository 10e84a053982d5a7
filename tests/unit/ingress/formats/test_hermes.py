import json

import pytest

from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event
from cluster.ingress.chat.formats.json_formats import HERMES
from tests.unit.ingress.formats.reading import NOW, TOOLS, WEATHER, call, read

PARIS = '{"city": "Paris"}'


def parsed(text: str, *, held: bool = False) -> list[Event]:
    return read(HERMES.parser(TOOLS, held=held), list(text))


def test_calls_are_found_between_contents_without_the_space_around_them() -> None:
    text = (
        'Let me see. \n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n Done.'
    )
    assert parsed(text) == [
        Content("Let me see."),
        *call("get_weather", PARIS),
        *call("now", "{}", 1),
        Content("Done."),
    ]


def test_the_name_comes_as_soon_as_arguments_begin_and_arguments_as_they_come() -> None:
    parser = HERMES.parser(TOOLS)
    assert parser.push('<tool_call>{"name": "get_weather", "arguments": ') == []
    assert parser.push('{"ci') == [CallBegins(0, "get_weather"), CallArguments(0, '{"ci')]
    assert parser.push('ty": "Par') == [CallArguments(0, 'ty": "Par')]


@pytest.mark.parametrize(
    "written",
    [
        '{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '{"type": "function", "name": "get_weather", "arguments": {"city": "Paris"}, "more": [1, {"a": 2}]}',
        json.dumps({"name": "get_weather", "arguments": PARIS}),
        json.dumps({"arguments": PARIS, "name": "get_weather"}),
        '{"name": "get_weather", "arguments": {"city": "Paris"}',
        '{"name": "get_weather", "arguments": {"city": "Paris"},}',
    ],
)
@pytest.mark.parametrize("end", ["\n</tool_call>", "</tool_call>", "", "\n</tool_"])
@pytest.mark.parametrize("held", [True, False])
def test_what_models_write_besides_is_forgiven(written: str, end: str, held: bool) -> None:
    assert parsed(f"<tool_call>\n{written}{end}", held=held) == call("get_weather", PARIS)


def test_a_call_of_a_tool_without_arguments_has_none() -> None:
    text = '<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "now", "arguments": null}</tool_call>'
    assert parsed(text) == [*call("now", "{}"), *call("now", "{}", 1)]


def test_a_name_that_is_no_tool_of_the_request_is_passed_on() -> None:
    text = '<tool_call>{"name": "other", "arguments": {"a": 1}}</tool_call>'
    assert parsed(text) == call("other", '{"a": 1}')


@pytest.mark.parametrize(
    "text",
    [
        "a <tool_call>\n not JSON </tool_call> b",
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "other"}</tool_call>',
        '<tool_call>{"name": "now", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "now", "arguments": "[1]"}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "now"',
        "<tool_call>",
        " <tool_ca",
        "a < b <tool> c \n",
        "\n",
    ],
)
@pytest.mark.parametrize("held", [True, False])
def test_a_malformed_call_is_content_as_it_was_written(text: str, held: bool) -> None:
    assert parsed(text, held=held) == [Content(text)]


def test_a_call_that_breaks_in_its_arguments_is_content_where_calls_are_held_and_ends_there_otherwise() -> None:
    text = 'So:\n<tool_call>{"name": "now", "arguments": {"a": 1,}}</tool_call>'
    assert parsed(text, held=True) == [Content(text)]
    assert parsed(text) == [Content("So:"), *call("now", '{"a": 1,'), Content("}}</tool_call>")]


def test_a_call_after_a_malformed_one_is_found() -> None:
    text = '<tool_call>\n<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert parsed(text) == [Content("<tool_call>\n"), *call("now", "{}")]
    text = '<tool_call>{"name": "now", "arguments": {"a"}}</tool_call><tool_call>{"name": "now"}</tool_call>'
    assert parsed(text, held=True) == [
        Content('<tool_call>{"name": "now", "arguments": {"a"}}</tool_call>'),
        *call("now", "{}"),
    ]


def test_a_tag_is_a_call_that_the_parser_reads() -> None:
    tag = HERMES.tag(WEATHER)
    assert tag.schema == WEATHER.parameters
    text = tag.begin + PARIS + tag.end
    assert parsed(text + text) == [*call("get_weather", PARIS), *call("get_weather", PARIS, 1)]
    assert HERMES.tag(NOW).schema == {"type": "object"}


def test_endless_space_is_not_kept() -> None:
    text = "a" + " " * 100 + '<tool_call>{"name": "now"}</tool_call>'
    assert parsed(text) == [Content("a" + " " * 36), *call("now", "{}")]
