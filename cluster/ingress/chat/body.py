"""The body of /v1/chat/completions: what is accepted, and the chat that it asks for."""

from typing import Any, Literal

from pydantic import Field

from baton.errors import InvalidRequestError
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.chat.tools import parse_tool_choice, parse_tools
from cluster.ingress.messages import parse_messages
from cluster.ingress.openai import SamplingBody, given
from cluster.ingress.sampling import SamplingOptions

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatBody(SamplingBody):
    messages: list[Any]
    chat_template: str = ""  # the name of one of the model's
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[Any] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    reasoning_effort: Effort | None = None
    include_reasoning: bool = True

    def options(self) -> SamplingOptions:
        """`max_completion_tokens` is the newer name of `max_tokens`; both may be sent when they agree."""
        old, new = self.said.get("max_tokens"), self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise InvalidRequestError(
                f"max_tokens is {old} and max_completion_tokens is {new}; send one of them", field="max_tokens"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError(
                f"top_logprobs is {self.top_logprobs} but logprobs is not true; set logprobs to true as well",
                field="top_logprobs",
            )
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        names = {"logprobs": "top_logprobs"} | ({} if new is None else {"max_tokens": "max_completion_tokens"})
        return SamplingOptions(said=self.said | given(max_tokens=new, logprobs=logprobs), names=names)

    def request(self) -> ChatRequest:
        """Raises: InvalidRequestError."""
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "add_generation_prompt is true and so is continue_final_message: an answer begins a message or goes on "
                "with one; send one of them",
                field="add_generation_prompt",
            )
        tools = parse_tools(self.tools)
        return ChatRequest(
            messages=parse_messages(self.messages),
            tools=tools,
            tool_choice=parse_tool_choice(self.tool_choice, tools, parallel=self.parallel_tool_calls),
            template=self.chat_template,
            template_kwargs=self.chat_template_kwargs | given(reasoning_effort=self.reasoning_effort),
            add_generation_prompt=self.add_generation_prompt is not False,
            continue_final_message=self.continue_final_message,
            add_special_tokens=self.add_special_tokens,
            include_reasoning=self.include_reasoning,
            structured=self.form,
            options=self.options(),
        )
