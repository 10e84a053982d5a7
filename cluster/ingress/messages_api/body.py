"""The body of /v1/messages: what is accepted, and the chat that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.ingress.agent_fields import check_fields
from cluster.ingress.chat.request import ChatRequest, ToolChoice
from cluster.ingress.messages_api.blocks import parse_messages, parse_system
from cluster.ingress.messages_api.fields import HARMLESS, KNOWN, OF_PROMPT, REFUSED, SAMPLING
from cluster.ingress.messages_api.thinking import parse_format, parse_output_config, parse_thinking
from cluster.ingress.messages_api.tools import parse_tool_choice, parse_tools
from cluster.ingress.openai import read_sampling
from cluster.ingress.reading import flag, items, mapping, only, refusal, text, whole
from cluster.ingress.sampling import SamplingOptions
from cluster.ingress.turns import Turns

_NAMES = {"stop": "stop_sequences"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesBody:
    """
    Attributes:
        model: None: the served one.
        max_tokens: As asked for, however many fit; 0 where only tokens are counted.
        shows_thoughts: Else they are sent without their text.
    """

    model: str | None
    chat: ChatRequest
    stream: bool = False
    max_tokens: int = 0
    shows_thoughts: bool = True
    session: str = ""  # the user's id, whose chats stay with one version of a model


def parse_body(sent: Mapping[str, Any]) -> MessagesBody:
    """Raises: InvalidRequestError: the first field that is unknown, refused, missing or of a wrong type."""
    body = check_fields(sent, KNOWN, HARMLESS, REFUSED)
    if "max_tokens" not in body:
        raise refusal("max_tokens", "max_tokens is missing; send how long the answer may be")
    _check_metadata(body)
    max_tokens = whole(body["max_tokens"], "max_tokens")
    said = read_sampling({name: body[name] for name in SAMPLING if name in body})
    said["max_tokens"] = max_tokens
    if "stop_sequences" in body:
        stops = items(body["stop_sequences"], "stop_sequences")
        said["stop"] = [text(stop, f"stop_sequences[{index}]") for index, stop in enumerate(stops)]
    chat, shows_thoughts = _chat(body, SamplingOptions(said=said, names=_NAMES, max_tokens_fit=True))
    return MessagesBody(
        model=_model(body),
        chat=chat,
        stream=flag(body.get("stream", False), "stream"),
        max_tokens=max_tokens,
        shows_thoughts=shows_thoughts,
        session=body.get("metadata", {}).get("user_id") or "",
    )


def parse_count_body(sent: Mapping[str, Any]) -> MessagesBody:
    """Of /v1/messages/count_tokens. What bears on the answer alone may be sent too: it is not looked at."""
    answers = KNOWN - OF_PROMPT
    body = check_fields(sent, OF_PROMPT, HARMLESS | answers, REFUSED)
    return MessagesBody(model=_model(body), chat=_chat(body, SamplingOptions())[0])


def _chat(body: Mapping[str, Any], options: SamplingOptions) -> tuple[ChatRequest, bool]:
    turns = Turns()
    parse_system(body.get("system", ""), turns)
    if "messages" not in body:
        raise refusal("messages", "messages is missing; send at least one")
    parse_messages(body["messages"], turns)
    tools = parse_tools(body.get("tools", []))
    thinking, shows_thoughts = parse_thinking(
        body.get("thinking", {"type": "adaptive"}), options.said.get("max_tokens")
    )
    effort, structured = parse_output_config(body.get("output_config", {}))
    if "output_format" in body:
        structured = parse_format(body["output_format"], "output_format")
    kwargs = thinking | effort | mapping(body.get("chat_template_kwargs", {}), "chat_template_kwargs")
    chat = ChatRequest(
        messages=turns.messages,
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        template=text(body.get("chat_template", ""), "chat_template"),
        template_kwargs=kwargs,
        add_generation_prompt=not turns.ends_with_answer,
        continue_final_message=turns.ends_with_answer,
        structured=structured,
        options=options,
    )
    return chat, shows_thoughts


def _tool_choice(body: Mapping[str, Any], tools: Any) -> ToolChoice:
    if "tool_choice" in body:
        choice = parse_tool_choice(body["tool_choice"], tools)
        if tools:
            return choice
    return ToolChoice() if tools else ToolChoice(mode="none")


def _model(body: Mapping[str, Any]) -> str | None:
    return text(body["model"], "model") if "model" in body else None


def _check_metadata(body: Mapping[str, Any]) -> None:
    metadata = mapping(body.get("metadata", {}), "metadata")
    only(metadata, ("user_id",), "metadata")
    if metadata.get("user_id") is not None:
        text(metadata["user_id"], "metadata.user_id")
