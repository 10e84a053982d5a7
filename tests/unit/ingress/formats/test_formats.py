"""What each format reads, by example; what all of them share is in test_cuts."""

import json

import pytest

from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event, Reasoning
from cluster.ingress.chat.formats.find_tools import find_tool_format
from tests.unit.ingress.formats.reading import TOOLS, call, read
from tests.unit.ingress.formats.written import WRITTEN


def parsed(name: str, text: str, *, held: bool = False) -> list[Event]:
    form = find_tool_format(name, "")
    assert form is not None
    return read(form.parser(TOOLS, held=held), list(text))


PARIS = '{"city": "Par\\"is", "days": 2}'


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("longcat", 0, call("get_weather", PARIS)),
        ("granite", 0, [*call("get_weather", PARIS), *call("now", "{}", 1)]),
        ("granite", 1, call("now", "{}")),
        ("granite-20b-fc", 0, call("now", "{}")),
        ("jamba", 0, [*call("now", "{}"), *call("now", "{}", 1)]),
        ("llama3_json", 0, call("get_weather", PARIS)),
        ("llama3_json", 1, [*call("now", "{}"), *call("now", "{}", 1)]),
        ("llama3_json", 2, call("other", '{"a": 1}')),
        ("pythonic", 1, call("now", "{}")),
        ("mistral", 0, [*call("get_weather", PARIS), *call("now", "{}", 1)]),
        ("mistral", 1, [*call("get_weather", PARIS), *call("now", "{}", 1, "a1b2c3d4e")]),
        ("mistral", 2, call("get_weather", PARIS)),
        ("deepseek_v3", 0, [*call("get_weather", PARIS), *call("now", "{}", 1)]),
        ("deepseek_v31", 0, [*call("get_weather", PARIS), *call("now", "{}", 1)]),
        ("kimi_k2", 0, [*call("now", "{}", 0, "functions.now:0"), *call("now", "{}", 1, "functions.now:1")]),
        ("kimi_k2", 1, call("now", "{}", 0, "functions.now:0")),
        ("qwen3_coder", 0, call("get_weather", '{"city": "Paris\\n", "days": 2, "share": null}')),
        ("qwen3_coder", 1, call("now", "{}")),
        ("glm45", 0, call("get_weather", '{"city": "Paris", "tags": ["a", 1]}')),
        ("glm45", 1, call("now", "{}")),
        ("openai", 0, [Reasoning("Hm."), *call("get_weather", PARIS)]),
        ("openai", 1, call("now", "{}")),
        ("openai", 2, [Content("So:"), *call("now", "{}")]),
    ],
)
def test_calls_as_models_write_them(name: str, number: int, expected: list[Event]) -> None:
    assert parsed(name, WRITTEN[name][number]) == expected
    assert parsed(name, WRITTEN[name][number], held=True) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("granite", "<|tool_call|>[]"),
        ("granite", "<|tool_call|> nothing"),
        ("llama3_json", '{"answer": {"name": "now"}}'),
        ("llama3_json", '{"name": "Alice", "age": 3}'),
        ("llama3_json", 'Say {"name": "other", "parameters": {}}'),
        ("pythonic", "[a link](now)"),
        ("pythonic", "[other(a=1)]"),
        ("pythonic", "[now(1)]"),
        ("pythonic", "[now()"[:-1]),
        ("mistral", "[TOOL_CALLS] I cannot {"),
        ("deepseek_v31", "<｜tool▁calls▁begin｜>now"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>now:0 {}"),
        ("qwen3_coder", "<tool_call>\n<function=now\n"),
        ("qwen3_coder", "<tool_call>\n<function=now>\nx"),
        ("glm45", "<tool_call>now <arg_key>a<arg_value>"),
    ],
)
def test_what_is_no_call_is_content_as_it_was_written(name: str, text: str) -> None:
    assert parsed(name, text) == [Content(text)]
    assert parsed(name, text, held=True) == [Content(text)]


def test_json_that_is_no_call_is_passed_on_at_once_where_calls_have_no_marks() -> None:
    form = find_tool_format("llama3_json", "")
    assert form is not None
    parser = form.parser(TOOLS)
    assert [*parser.push('{"answer": '), *parser.push("[1, ")] == [
        Content('{"answer":'),
        Content(" [1,"),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'a'", "a"),
        ('"\\x41\\u00e9\\U0001f600\\ud83d\\ude00\\n\\q\'"', "Aé😀😀\n\\q'"),
        ("'two\\\n lines\n'", "two lines\n"),
        ("-1_000", -1000),
        ("+0", 0),
        (".5e1", 5.0),
        ("1e3", 1000.0),
        ("None", None),
        ("true", True),
        ("(1, [2, {'a': (), \"b\": [None,],},],)", [1, [2, {"a": [], "b": [None]}]]),
    ],
)
def test_python_becomes_json(written: str, expected: object) -> None:
    events = parsed("pythonic", f"[get_weather(city={written})]")
    assert events[0] == CallBegins(0, "get_weather")
    assert isinstance(events[1], CallArguments)
    assert json.loads(events[1].text) == {"city": expected}


@pytest.mark.parametrize(
    "written", ["x", "05", "1e999", "inf", "'a' 'b'", "{1: 2}", "{1}", "1 + 2", "f()", "'\\u12'", "[" * 99, "b'x'", ""]
)
def test_other_python_is_no_argument(written: str) -> None:
    text = f"[get_weather(city={written})]"
    assert parsed("pythonic", text, held=True) == [Content(text)]


@pytest.mark.parametrize(
    ("key", "written", "expected"),
    [
        ("city", "5", "5"),
        ("city", " a\n\nb ", " a\n\nb "),
        ("days", "5", 5),
        ("days", "many", "many"),
        ("precise", "True", True),
        ("units", '{"a": [1]}', {"a": [1]}),
        ("units", "{'a': [1]}", {"a": [1]}),
        ("share", "0.5", 0.5),
        ("share", "null", None),
        ("unknown", "5", "5"),
    ],
)
def test_values_have_the_types_of_the_schema(key: str, written: str, expected: object) -> None:
    text = f"<function=get_weather><parameter={key}>\n{written}\n</parameter></function>"
    events = parsed("qwen3_coder", text)
    assert isinstance(events[1], CallArguments)
    assert json.loads(events[1].text) == {key: expected}


def test_long_text_is_passed_on_while_it_comes() -> None:
    form = find_tool_format("qwen3_coder", "")
    assert form is not None
    parser = form.parser(TOOLS)
    parser.push("<tool_call>\n<function=get_weather>\n<parameter=city>")
    assert parser.push('\na "b') == [CallArguments(0, 'a \\"b')]
    assert parser.push("\n") == []
    assert parser.push("c") == [CallArguments(0, "\\nc")]


def test_parameters_may_lack_their_ends() -> None:
    text = "<tool_call><function=get_weather><parameter=days>2<parameter=city>Paris</function></tool_call>"
    assert parsed("qwen3_coder", text) == call("get_weather", '{"days": 2, "city": "Paris"}')
    text = "<tool_call><function=get_weather><parameter=days>2</parameter></tool_call>"
    assert parsed("qwen3_coder", text) == call("get_weather", '{"days": 2}')


def test_ids_that_a_model_repeats_are_replaced() -> None:
    text = WRITTEN["kimi_k2"][1] * 2
    assert parsed("kimi_k2", text) == [
        *call("now", "{}", 0, "functions.now:0"),
        *call("now", "{}", 1, "functions.now:1"),
    ]


def test_ids_in_json_are_told_where_they_come_first() -> None:
    text = '[TOOL_CALLS][{"id": "abc", "name": "now", "arguments": {}}]'
    assert parsed("mistral", text) == call("now", "{}", 0, "abc")


def test_channels_are_thinking_content_and_calls() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm. <|end|><|start|>assistant<|channel|>analysis to=python<|message|>1+1<|call|>"
        "<|start|>assistant<|channel|>final<|message|>It <is> 2.<|return|>"
    )
    assert parsed("openai", text) == [Reasoning("Hm. 1+1"), Content("It <is> 2.")]
    assert parsed("openai", "No channels at all.") == [Content("No channels at all.")]
    assert parsed("openai", "<|channel|>fin") == []
    broken = "<|channel|>commentary to=functions.now<|message|>soon<|call|>"
    assert parsed("openai", broken) == [Content(broken)]
