"""What templates are given: tools, calls, thinking, and all that a request sets of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from baton.errors import InvalidRequestError
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.chat.prompts import render_prompt
from cluster.ingress.openai import parse_body
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.chat.asking import SCHEMA, USER, assistant, call, result, tool
from tests.unit.ingress.tokenizers import byte_level, save

# In the manner of templates of today, with every way in which they write JSON.
TEMPLATE = """{%- if tools %}
{%- for tool in tools %}{{ tool | tojson }}|{{ tool.function.parameters | tojson(indent=2) }}|
{{- tool | tojson(separators=(',', ':'), sort_keys=true) }}|{{ tool.function.name | tojson(ensure_ascii=true) }}
{% endfor %}{%- endif %}
{%- for message in messages %}[{{ message.role }}]
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}
{%- for one in message.tool_calls or [] %}<call>{{ one.function.name }} {{ one.function.arguments | tojson }}
{%- for key, value in one.function.arguments.items() %}({{ key }}={{ value }}){% endfor %}{% endfor %}
{%- if message.role == 'tool' %}<of {{ message.name }} {{ message.tool_call_id }}>{% endif %};
{%- endfor %}
{%- if add_generation_prompt %}[assistant]
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- if reasoning_effort %}{{ reasoning_effort }}{% endif %}{{ extra or '' }}{% endif %}"""
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LOOP = [USER, assistant(call(), call("call_2"), reasoning_content="I need it."), result("call_2", "rain"), result()]


def make(folder: Path, template: str = TEMPLATE, **named: str) -> Tokenizer:
    settings: Any = template
    if named:
        settings = [{"name": name, "template": text} for name, text in {"default": template, **named}.items()]
    return Tokenizer(str(save(byte_level(), folder, json.dumps({"chat_template": settings}))))


def rendered(tokenizer: Tokenizer, **body: Any) -> str:
    return render_prompt(parse_body({"messages": [USER]} | body, ChatBody).request(), tokenizer).text


def test_templates_render_as_in_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = make(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=TEMPLATE)
    messages = [*LOOP[:1], {**LOOP[1], "content": ""}, *LOOP[2:]]
    for message in messages:
        for one in message.get("tool_calls", ()):
            one["function"]["arguments"] = {"city": "Rome"}
    tools = [tool("größe", SCHEMA)]
    tools[0]["function"]["name"] = "groesse"
    named = [{**message, "name": "get_weather"} if message["role"] == "tool" else message for message in messages]
    for variables in ({}, {"enable_thinking": False, "extra": "x"}):
        expected = theirs.apply_chat_template(
            named, tools=tools, tokenize=False, add_generation_prompt=True, **variables
        )
        assert rendered(tokenizer, messages=LOOP, tools=tools, chat_template_kwargs=variables) == expected


def test_calls_have_objects_as_arguments_and_results_their_calls_name(tmp_path: Path) -> None:
    text = rendered(make(tmp_path), messages=LOOP, tools=[tool()])
    assert '<think>I need it.</think><call>get_weather {"city": "Rome"}(city=Rome)<call>' in text
    assert "[tool]rain<of get_weather call_2>;[tool]sunny<of get_weather call_1>;[assistant]" in text


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_thinking_goes_to_the_template_under_every_name(tmp_path: Path, name: str) -> None:
    body = [USER, {"role": "assistant", "content": "a", name: "because"}, USER]
    assert "<think>because</think>a" in rendered(make(tmp_path), messages=body)
    template = "{% for m in messages %}{{ m.thinking }}{{ m.reasoning }}{% endfor %}"
    assert rendered(make(tmp_path / "b", template), messages=body) == "becausebecause"


def test_an_older_call_is_a_call_and_its_result_a_result(tmp_path: Path) -> None:
    body = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": '{"city": "Rome"}'}},
        {"role": "function", "name": "now", "content": "noon"},
    ]
    text = rendered(make(tmp_path), messages=body)
    assert '<call>now {"city": "Rome"}(city=Rome);[tool]noon<of now call_0>' in text


def test_a_null_content_is_null_only_for_templates_that_ask(tmp_path: Path) -> None:
    body = [USER, assistant(call()), result()]
    assert "None" not in rendered(make(tmp_path), messages=body)
    asks = "{{ tools }}{% for m in messages %}{% if m['content'] is none %}null{% endif %}{% endfor %}"
    assert rendered(make(tmp_path / "b", asks), messages=body) == "Nonenull"


def test_a_developer_is_the_system_where_the_template_knows_none(tmp_path: Path) -> None:
    body = [{"role": "developer", "content": "Be brief."}, USER]
    assert rendered(make(tmp_path), messages=body).startswith("[system]Be brief.")
    knows = "{% for m in messages %}{{ 'D' if m.role == 'developer' else m.role }}{% endfor %}"
    assert rendered(make(tmp_path / "b", knows), messages=body) == "Duser"


def test_a_request_sets_variables_of_the_template(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    assert rendered(tokenizer, reasoning_effort="low").endswith("[assistant]low")
    assert rendered(tokenizer, reasoning_effort="none").endswith("[assistant]<think></think>none")
    thinks = {"enable_thinking": True}
    assert rendered(tokenizer, reasoning_effort="none", chat_template_kwargs=thinks).endswith("[assistant]none")
    names_of_python = {"extra": "!", "self": 1, "template": 2}
    assert rendered(tokenizer, chat_template_kwargs=names_of_python).endswith("[assistant]!")
    assert rendered(tokenizer, add_generation_prompt=False).endswith("weather?;")


def test_a_message_is_gone_on_with(tmp_path: Path) -> None:
    for number, template in enumerate((TEMPLATE, PLAIN, PLAIN.replace("m.content", "m.content | trim"))):
        tokenizer = make(tmp_path / str(number), template)
        body = [USER, {"role": "assistant", "content": "It will "}]
        assert rendered(tokenizer, messages=body, continue_final_message=True).endswith(
            "weather?;[assistant]It will" + ("" if "trim" in template else " ")
        )


def test_what_cannot_be_gone_on_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="the last message has no text to go on with; send some"):
        rendered(make(tmp_path), messages=[USER, assistant(call())], continue_final_message=True)
    with pytest.raises(InvalidRequestError, match="chat template drops the text of the last message"):
        rendered(make(tmp_path / "b", "{{ messages[0].role }}"), continue_final_message=True)


def test_a_variable_that_is_a_field_is_refused(tmp_path: Path) -> None:
    for name in ("messages", "tools", "add_generation_prompt", "chat_template"):
        with pytest.raises(InvalidRequestError, match=f"chat_template_kwargs.{name} is the request's own field"):
            rendered(make(tmp_path / name), chat_template_kwargs={name: 1})


def test_a_template_that_trips_over_a_variable_is_a_refusal(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, "{{ 1 // zero }}{{ messages[0].content[place] }}")
    with pytest.raises(InvalidRequestError, match="does not fit this model's chat template"):
        rendered(tokenizer, chat_template_kwargs={"zero": 0})


def test_choice_none_shows_no_tools(tmp_path: Path) -> None:
    assert "get_weather" not in rendered(make(tmp_path), tools=[tool()], tool_choice="none")


def test_a_template_for_tools_is_taken_for_them(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, PLAIN, tool_use="with {{ tools | length }}")
    assert rendered(tokenizer, tools=[tool()]) == "with 1"
    assert rendered(tokenizer).startswith("[user]")
    assert rendered(tokenizer, tools=[tool()], chat_template="default").startswith("[system]")


def test_tools_are_written_into_the_messages_where_the_template_knows_none(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, PLAIN)
    text = rendered(tokenizer, messages=LOOP, tools=[tool(), tool("now", {})])
    assert text.startswith("[system]You can call functions.")
    assert json.dumps({**tool()["function"]}) in text
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert f"[assistant]{written}\n{written}" in text
    assert text.count("[user]") == 2  # both results are one message
    assert "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsunny\n</tool_response>;[assistant]" in text
    assert "[tool]" not in text


def test_written_tools_stand_behind_what_the_system_says(tmp_path: Path) -> None:
    body = [{"role": "system", "content": "Be brief."}, USER, assistant(call(), content="Well."), result()]
    text = rendered(make(tmp_path, PLAIN), messages=body, tools=[tool()])
    assert text.startswith("[system]Be brief.\n\nYou can call functions.")
    assert "[assistant]Well.\n<tool_call>\n" in text


def test_marks_of_what_a_model_wrote_are_read_over(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert rendered(make(tmp_path, template)) == "How is the weather?!"
