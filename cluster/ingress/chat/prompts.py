"""Chats become prompts here: the model's template is given messages in the form that it knows, with the tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.chat.continuing import cut_at_mark, with_mark
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.chat.tools import openai_tool
from cluster.ingress.chat.written_tools import with_written_tools
from cluster.ingress.chat_templates import ChatTemplate
from cluster.ingress.thinking import switched
from cluster.ingress.tokenizer import Tokenizer

TOOL_TEMPLATE = "tool_use"  # goes before the default one where a model has it and there are tools, as in transformers
_OWN = frozenset({"add_generation_prompt", "chat_template", "continue_final_message", "messages", "tokenize", "tools"})


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered chat, and the template that it went through."""

    text: str
    template: ChatTemplate


def render_prompt(request: ChatRequest, tokenizer: Tokenizer) -> ChatPrompt:
    """Raises: InvalidRequestError: no such template, or it refuses the messages; variables that it may not have."""
    _check_variables(request.template_kwargs)
    name = request.template
    if not name and request.tools and TOOL_TEMPLATE in tokenizer.chat_templates:
        name = TOOL_TEMPLATE
    template = tokenizer.templates.find(name)
    messages: Sequence[Mapping[str, Any]] = request.messages
    if request.continue_final_message:
        messages = with_mark(messages)
    tools = [] if request.tool_choice.mode == "none" else [openai_tool(tool) for tool in request.tools]
    if not template.knows_tools:
        messages = with_written_tools(messages, tools)
    text = tokenizer.render_chat(
        [_fitting(message, template) for message in messages],
        name,
        **{**_thinking(request), **request.template_kwargs},
        tools=tools or None,
        add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
    )
    return ChatPrompt(cut_at_mark(text) if request.continue_final_message else text, template)


def _check_variables(variables: Mapping[str, Any]) -> None:
    for name in variables:
        if name in _OWN:
            raise InvalidRequestError(
                f"chat_template_kwargs.{name} is the request's own field or none; leave it out of chat_template_kwargs",
                field="chat_template_kwargs",
            )


def _thinking(request: ChatRequest) -> dict[str, bool]:
    """Templates that turn thinking on and off know no efforts."""
    effort = request.template_kwargs.get("reasoning_effort")
    return {} if effort is None else switched(on=effort != "none")


def _fitting(message: Mapping[str, Any], template: ChatTemplate) -> Mapping[str, Any]:
    if message["role"] == "developer" and not template.knows_developer:
        return {**message, "role": "system"}
    if message["content"] is None and not template.knows_null:
        return {**message, "content": ""}
    return message
