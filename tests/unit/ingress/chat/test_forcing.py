"""What a grammar is told to force: which tags, when, and where the thinking ends."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError, InvalidRequestError
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.chat.formats.json_formats import HERMES as HERMES_FORMAT
from cluster.ingress.chat.model_formats import ModelFormats, Reading
from cluster.ingress.chat.prompts import render_prompt
from cluster.ingress.chat.request import Tool
from cluster.ingress.openai import parse_body
from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.job import Job, load
from cluster.ingress.structured.output import StructuredOutput, Tag, Tagged
from cluster.ingress.structured.refusal import refusal
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.chat.asking import SCHEMA, USER, tool
from tests.unit.ingress.tokenizers import byte_level, save

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
HERMES = PLAIN + "{{ tools }}{# <tool_call> #}"
THINKING = HERMES + "{% if opened %}<think>\n{% elif enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
HARMONY = "{{ tools }}{# <|channel|> <|message|> #}<|start|>user<|message|>hi<|end|><|start|>assistant"
ANY = {"type": "object"}


def make(folder: Path, template: str) -> Tokenizer:
    return Tokenizer(str(save(byte_level(), folder, json.dumps({"chat_template": template}))))


def reading(tokenizer: Tokenizer, formats: ModelFormats | None = None, **body: Any) -> Reading:
    request = parse_body({"messages": [USER]} | body, ChatBody).request()
    prompt = render_prompt(request, tokenizer)
    return (formats or ModelFormats(tokenizer)).reading(request, prompt, stream=True)


def form(folder: Path, *tools: dict[str, Any], template: str = HERMES, **body: Any) -> StructuredOutput | None:
    return reading(make(folder, template), tools=list(tools), **body).form


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_required_is_tags_alone(tmp_path: Path) -> None:
    made = form(tmp_path, tool(), tool("now", {}), tool_choice="required")
    assert isinstance(made, Tagged)
    assert (made.required, made.at_most_one, made.triggers) == (True, False, ("<tool_call>",))
    assert [tag.begin for tag in made.tags] == [
        f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in ("get_weather", "now")
    ]
    assert {tag.end for tag in made.tags} == {"}\n</tool_call>"}
    assert [tag.schema for tag in made.tags] == [SCHEMA, {"type": "object", "properties": {}}]


def test_a_named_function_is_called_once(tmp_path: Path) -> None:
    made = form(tmp_path, tool(), tool("now", {}), tool_choice=named("now"))
    assert isinstance(made, Tagged)
    assert (len(made.tags), made.required, made.at_most_one) == (1, True, True)
    assert '"name": "now"' in made.tags[0].begin


def test_without_parallel_calls_there_is_one(tmp_path: Path) -> None:
    made = form(tmp_path, tool(), tool_choice="required", parallel_tool_calls=False)
    assert isinstance(made, Tagged)
    assert made.at_most_one


def test_auto_forces_nothing(tmp_path: Path) -> None:
    assert form(tmp_path, tool(), tool("now", {})) is None
    assert form(tmp_path, tool(strict=True), tool_choice="none") is None


def test_auto_forces_strict_functions_from_where_a_call_begins(tmp_path: Path) -> None:
    made = form(tmp_path, tool(strict=True), tool("now", {"properties": {"a": SCHEMA}}))
    assert isinstance(made, Tagged)
    assert (made.required, made.at_most_one) == (False, False)
    assert [tag.schema for tag in made.tags] == [SCHEMA, ANY]


def test_auto_goes_with_json_that_the_content_must_be(tmp_path: Path) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    made = form(tmp_path, tool(), response_format=wanted)
    assert isinstance(made, Tagged)
    assert (made.required, made.instead) == (True, Tag("", SCHEMA, ""))
    assert [tag.schema for tag in made.tags] == [ANY]
    of_harmony = form(tmp_path / "b", tool(), template=HARMONY, response_format=wanted)
    assert isinstance(of_harmony, Tagged)
    assert of_harmony.instead == Tag("<|channel|>final<|message|>", SCHEMA, "")
    forced = form(tmp_path / "c", tool(), tool_choice="required", response_format=wanted)
    assert isinstance(forced, Tagged)
    assert forced.instead is None
    with pytest.raises(InvalidRequestError, match="goes with tools where it is JSON, or where a call must be made"):
        form(tmp_path / "d", tool(), structured_outputs={"regex": "a+"})


def test_a_grammar_takes_the_content_or_calls() -> None:
    from llguidance import LLMatcher, LLTokenizer

    tagged = Tagged(
        (HERMES_FORMAT.tag(Tool(name="now")),), ("<tool_call>",), required=True, instead=Tag("", SCHEMA, "")
    )
    assert load(Job(structured=tagged).dump()).structured == tagged
    assert refusal(tagged) is None
    for text, is_taken in (
        ('{"city": "Rome"}', True),
        ('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', True),
        ('{"town": "Rome"}', False),
        ("Rome", False),
    ):
        matcher = LLMatcher(LLTokenizer("byte"), grammar_text(tagged))
        assert (matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting()) is is_taken
    broken = replace(tagged, instead=Tag("", {"type": "object", "properties": {"a": {"pattern": "("}}}, ""))
    assert refusal(broken) is not None


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_all_that_may_be_called(tmp_path: Path, mode: str) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named("now"), named("then")]}}
    made = form(tmp_path, tool(), tool("now", {}), tool("then", {}), tool_choice=allowed)
    assert isinstance(made, Tagged)
    assert made.required is (mode == "required")
    assert [("now" in tag.begin, "then" in tag.begin) for tag in made.tags] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("variables", "ends", "begins"),
    [({}, "</think>", "<think>"), ({"opened": True}, "</think>", None), ({"enable_thinking": False}, None, None)],
)
def test_a_form_comes_behind_the_thinking(
    tmp_path: Path, variables: dict[str, Any], ends: str | None, begins: str | None
) -> None:
    found = reading(make(tmp_path, THINKING), tools=[tool()], tool_choice="required", chat_template_kwargs=variables)
    assert (found.reasoning_ends, found.reasoning_begins) == (ends, begins)


def test_of_harmony_a_call_follows_the_thinking_and_content_its_head(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, HARMONY)
    found = reading(tokenizer, tools=[tool()], tool_choice="required")
    assert (found.reasoning_ends, found.reasoning_begins) == (
        "<|end|><|start|>assistant",
        "<|channel|>analysis<|message|>",
    )
    assert reading(tokenizer).reasoning_ends == "<|end|><|start|>assistant<|channel|>final<|message|>"


def test_an_unknown_way_of_calling_is_refused(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, PLAIN + "{{ tools }}")
    with pytest.raises(InvalidRequestError, match="cannot tell from this model's chat template how it writes calls"):
        reading(tokenizer, tools=[tool()])
    with pytest.raises(InvalidRequestError, match=r"this server reads no calls of tools \(tools.parser: none\)"):
        reading(tokenizer, ModelFormats(tokenizer, tools="none"), tools=[tool()])
    assert reading(tokenizer, ModelFormats(tokenizer, tools="hermes"), tools=[tool()]).new_reader is not None
    assert reading(tokenizer).new_reader is None


def test_a_template_without_tools_calls_as_hermes_does(tmp_path: Path) -> None:
    made = form(tmp_path, tool(), template=PLAIN, tool_choice="required")
    assert isinstance(made, Tagged)
    assert made.triggers == ("<tool_call>",)


def test_an_unknown_parser_is_refused_at_the_start(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, PLAIN)
    with pytest.raises(
        ConfigError, match=r"tools.parser: qwen9 is no format of tool calls; give auto, none, or one of"
    ):
        ModelFormats(tokenizer, tools="qwen9")
    with pytest.raises(ConfigError, match=r"reasoning.parser: loud is no format of reasoning; give auto, none, or"):
        ModelFormats(tokenizer, reasoning="loud")


def test_ids_of_calls_are_as_the_template_wants_them(tmp_path: Path) -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    for template, length in ((HERMES, 29), (HERMES + "{# must have length 9! #}", 9)):
        found = reading(make(tmp_path / str(length), template), tools=[tool()])
        assert found.new_reader is not None
        ids = [found.new_reader().push(text)[0].call_id for _ in range(2)]  # type: ignore[union-attr]
        assert {len(one) for one in ids} == {length}
        assert ids[0] != ids[1]
