"""The body of /v1/responses: what is accepted, and the chat that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.ingress.agent_fields import check_fields
from cluster.ingress.chat.request import ChatRequest, Tool, ToolChoice
from cluster.ingress.fields import shorten
from cluster.ingress.openai import read_sampling
from cluster.ingress.reading import flag, items, mapping, only, refusal, text, whole, word
from cluster.ingress.responses_api.fields import HARMLESS, KNOWN, REFUSED, SAMPLING
from cluster.ingress.responses_api.items import parse_input
from cluster.ingress.responses_api.text_format import parse_text
from cluster.ingress.responses_api.tools import parse_tool_choice, parse_tools
from cluster.ingress.sampling import SamplingOptions
from cluster.ingress.session_of import session_of
from cluster.ingress.thinking import EFFORTS, of_effort
from cluster.ingress.turns import Turns

LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512  # of metadata, which every event of the answer's state repeats
_NAMES = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesBody:
    """
    Attributes:
        model: None: the served one.
        sealed: Thoughts are sent as `encrypted_content` too.
        groups: Of functions in a namespace: see `tools`.
        said: The fields that the answer repeats as they came.
    """

    model: str | None
    chat: ChatRequest
    stream: bool
    sealed: bool
    groups: Mapping[str, tuple[str, str]]
    said: Mapping[str, Any] = field(default_factory=dict)
    session: str = ""  # see `session_of`


def parse_body(sent: Mapping[str, Any]) -> ResponsesBody:
    """Raises: InvalidRequestError: the first field that is unknown, refused, missing or of a wrong type."""
    body = check_fields(sent, KNOWN, HARMLESS, REFUSED)
    include = _include(body)
    stream = flag(body.get("stream", False), "stream")
    _check_stream_options(body, stream)
    _check_metadata(body)
    tools = parse_tools(body.get("tools", []))
    return ResponsesBody(
        model=text(body["model"], "model") if "model" in body else None,
        chat=_chat(body, tools.functions, include),
        stream=stream,
        sealed=SEALED in include,
        groups=tools.groups,
        said={**body, **{name: sent[name] for name in HARMLESS - {"store"} if sent.get(name) is not None}},
        session=session_of(sent),
    )


def _chat(body: Mapping[str, Any], tools: tuple[Tool, ...], include: frozenset[str]) -> ChatRequest:
    turns = Turns()
    if "instructions" in body:
        turns.say("system", text(body["instructions"], "instructions"))
    if "input" not in body:
        raise refusal("input", "input is missing; send a string or a list of items")
    parse_input(body["input"], turns)
    parallel = flag(body.get("parallel_tool_calls", True), "parallel_tool_calls")
    choice = parse_tool_choice(body.get("tool_choice", "auto"), tools, parallel=parallel)
    return ChatRequest(
        messages=turns.messages,
        tools=tools,
        tool_choice=choice if tools else ToolChoice(mode="none"),
        template=text(body.get("chat_template", ""), "chat_template"),
        template_kwargs=_reasoning(body) | mapping(body.get("chat_template_kwargs", {}), "chat_template_kwargs"),
        structured=parse_text(body.get("text", {})),
        options=_options(body, include),
    )


def _options(body: Mapping[str, Any], include: frozenset[str]) -> SamplingOptions:
    said = read_sampling({name: body[name] for name in SAMPLING if name in body})
    if "max_output_tokens" in body:
        said["max_tokens"] = whole(body["max_output_tokens"], "max_output_tokens")
    num_top = whole(body.get("top_logprobs", 0), "top_logprobs")
    if num_top or LOGPROBS in include:
        said["logprobs"] = num_top
    return SamplingOptions(said=said, names=_NAMES, max_tokens_fit=True)


def _reasoning(body: Mapping[str, Any]) -> dict[str, Any]:
    """The template's variables."""
    reasoning = mapping(body.get("reasoning", {}), "reasoning")
    only(reasoning, ("effort", "summary", "generate_summary", "context", "mode"), "reasoning")
    for name, allowed in {"summary": "auto", "generate_summary": "auto", "context": "auto", "mode": "standard"}.items():
        if reasoning.get(name) not in (None, allowed):
            raise refusal(
                "reasoning",
                f"reasoning.{name} is {shorten(reasoning[name])}; this server sends thoughts whole, in `content`: "
                f'send "{allowed}", or leave it out',
            )
    if reasoning.get("effort") is None:
        return {}
    return of_effort(word(reasoning["effort"], "reasoning.effort", EFFORTS))


def _include(body: Mapping[str, Any]) -> frozenset[str]:
    include = items(body.get("include", []), "include")
    for index, name in enumerate(include):
        if name not in (LOGPROBS, SEALED):
            raise refusal(
                "include", f"include[{index}] is {shorten(name)}; this server can include {LOGPROBS} and {SEALED}"
            )
    return frozenset(include)


def _check_stream_options(body: Mapping[str, Any], stream: bool) -> None:
    options = mapping(body.get("stream_options", {}), "stream_options")
    only(options, ("include_obfuscation",), "stream_options")
    if "include_obfuscation" in options:  # there is none, whether or not
        flag(options["include_obfuscation"], "stream_options.include_obfuscation")
    if "stream_options" in body and not stream:
        raise refusal("stream_options", "stream_options needs stream to be true; set it or leave both out")


def _check_metadata(body: Mapping[str, Any]) -> None:
    metadata = mapping(body.get("metadata", {}), "metadata")
    if len(metadata) > _MAX_PAIRS:
        raise refusal("metadata", f"metadata has {len(metadata)} pairs; send at most {_MAX_PAIRS}")
    for key, value in metadata.items():
        if len(key) > _MAX_KEY or not isinstance(value, str) or len(value) > _MAX_VALUE:
            raise refusal(
                "metadata",
                f"metadata.{shorten(key)} is {shorten(value)}; keys have at most {_MAX_KEY} characters, values are "
                f"strings of at most {_MAX_VALUE}",
            )
