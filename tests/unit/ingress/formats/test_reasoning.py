import pytest

from baton.errors import ConfigError
from cluster.ingress.chat.events import Content, Event, Reasoning
from cluster.ingress.chat.formats.answer_parser import answer_parser
from cluster.ingress.chat.formats.find_reasoning import DEEPSEEK_R1, HARMONY, KIMI, QWEN3, find_reasoning_format
from cluster.ingress.chat.formats.find_tools import find_tool_format
from cluster.ingress.chat.formats.json_formats import HERMES
from cluster.ingress.chat.formats.reasoning_format import MarkedThinking
from tests.unit.ingress.formats.reading import TOOLS, call, read


def parsed(form: MarkedThinking, text: str, prompt: str = "") -> list[Event]:
    return read(form.parser(is_opened=form.is_opened(prompt)), list(text))


def test_thinking_and_content_come_without_the_line_ends_between_them() -> None:
    assert parsed(QWEN3, "<think>\nHm,\n\nwell.\n</think>\n\n  Yes.\n") == [
        Reasoning("Hm,\n\nwell."),
        Content("  Yes.\n"),
    ]


def test_a_prompt_may_have_opened_the_thinking() -> None:
    for form in (QWEN3, DEEPSEEK_R1):
        assert parsed(form, "Hm.</think>Yes.", "user: x\n<think>\n") == [Reasoning("Hm."), Content("Yes.")]
        assert parsed(form, "<think>Hm.</think>Yes.", "<think>\n") == [Reasoning("Hm."), Content("Yes.")]


def test_a_prompt_may_have_closed_it_too() -> None:
    for form in (QWEN3, DEEPSEEK_R1):
        assert parsed(form, "Yes </think>.", "<think>\n\n</think>\n\n") == [Content("Yes </think>.")]


def test_where_nothing_opens_it_a_model_thinks_that_always_does() -> None:
    assert parsed(QWEN3, "\nYes, a <think>.") == [Content("\nYes, a <think>.")]
    assert parsed(DEEPSEEK_R1, "Hm.</think>Yes.") == [Reasoning("Hm."), Content("Yes.")]


def test_thinking_that_is_cut_short_is_all_there_is() -> None:
    assert parsed(QWEN3, "<think>Hm </thin") == [Reasoning("Hm </thin")]
    assert parsed(QWEN3, "<thi") == [Content("<thi")]
    assert parsed(QWEN3, "<think>\n\n</think>\n\n") == []


def test_calls_are_looked_for_in_content_alone() -> None:
    written = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    parser = answer_parser(QWEN3, HERMES, prompt="", tools=TOOLS)
    assert parser is not None
    assert read(parser, [f"<think>{written}</think>\n\nSo. ", written]) == [
        Reasoning(written),
        Content("So."),
        *call("now", "{}"),
    ]


def test_without_tools_no_calls_are_looked_for() -> None:
    assert answer_parser(None, HERMES, prompt="") is None
    assert answer_parser(None, None, prompt="", tools=TOOLS) is None
    parser = answer_parser(QWEN3, HERMES, prompt="")
    assert parser is not None
    assert read(parser, ["<tool_call>{}"]) == [Content("<tool_call>{}")]


def test_formats_have_names_and_unknown_ones_are_refused() -> None:
    assert find_reasoning_format("none", "<think></think>") is None
    assert find_reasoning_format("auto", "Hello") is None
    assert find_reasoning_format("deepseek_r1", "") is DEEPSEEK_R1
    with pytest.raises(ConfigError, match=r"reasoning\.parser: no_such is no format of reasoning; give auto, none, or"):
        find_reasoning_format("no_such", "")


def test_calls_of_kimi_end_its_thinking() -> None:
    section = "<|tool_calls_section_begin|>"
    assert parsed(KIMI, f"<think>Hm.\n{section}") == [Reasoning("Hm."), Content(section)]


def test_harmony_is_read_as_a_whole_and_without_tools_calls_are_thinking() -> None:
    text = "<|channel|>commentary to=functions.now<|message|>{}"
    for tools, expected in ((TOOLS, call("now", "{}")), ((), [Reasoning("{}")])):
        parser = answer_parser(HARMONY, find_tool_format("openai", ""), prompt="<|start|>assistant", tools=tools)
        assert parser is not None
        assert read(parser, [text]) == expected
