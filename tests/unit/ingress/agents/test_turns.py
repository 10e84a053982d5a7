"""Pieces of a conversation become turns that templates can read."""

from pathlib import Path
from typing import Any

import pytest

from baton.errors import InvalidRequestError
from cluster.config.schema import RouterConfig
from cluster.ingress.agent_calls import with_any_template
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.service import Service
from cluster.ingress.tokenizer import Tokenizer
from cluster.ingress.turns import Turns, without_late_system
from tests.unit.ingress.fakes import DEMO, FakeDispatcher

STRICT = (
    "{% for message in messages %}{% if not loop.first and message.role == 'system' %}"
    "{{ raise_exception('no system here') }}{% endif %}[{{ message.role }}]{{ message.content }}{% endfor %}"
)


def test_what_follows_each_other_by_one_speaker_is_one_turn() -> None:
    turns = Turns()
    turns.say("system", "Be brief")
    turns.new_message()
    turns.say("developer", "In English")
    turns.say("user", "Weather?")
    turns.say("user", "Today")
    turns.think("Well.")
    turns.answer("I look.")
    turns.call("a", "weather", {"city": "Paris"}, "p")
    turns.call("b", "time", {}, "p")
    turns.result("b", "Noon", "p")
    turns.result("a", "Sunny", "p")
    turns.answer("Sunny.")
    turns.check_results("p", "send it")
    assert [message["role"] for message in turns.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert turns.messages[0]["content"] == "Be brief\n\nIn English"
    assert turns.messages[1]["content"] == "Weather?\nToday"
    assistant = turns.messages[2]
    assert (assistant["content"], assistant["reasoning_content"]) == ("I look.", "Well.")
    assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["weather", "time"]
    assert turns.messages[3] == {"role": "tool", "tool_call_id": "b", "name": "time", "content": "Noon"}


def test_what_the_system_says_midway_can_be_the_users() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "developer", "content": "e"},
        {"role": "user", "content": "f"},
    ]
    assert without_late_system(messages) == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b\n\nc"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e\n\nf"},
    ]


async def test_a_template_that_takes_no_system_midway_is_given_none(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(STRICT)
    tokenizer = Tokenizer(str(tmp_path))
    service = Service(dispatcher=FakeDispatcher(tokenizer), tokenizer=tokenizer, model="m", router=RouterConfig())
    said: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    ids = await with_any_template(ChatRequest(messages=said), service.chat_token_ids)
    assert tokenizer.decode(ids) == "[user]a\n\nb"
    with pytest.raises(InvalidRequestError, match="no template"):
        await with_any_template(ChatRequest(messages=said, template="no template"), service.chat_token_ids)
