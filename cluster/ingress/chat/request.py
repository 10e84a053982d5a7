"""A chat to be answered, as every API asks for it: OpenAI's two, Anthropic's, gRPC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.ingress.sampling import SamplingOptions
from cluster.ingress.structured.output import StructuredOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: A JSON schema of its arguments, an object's.
        strict: Arguments follow the schema always: a grammar forces them.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools may, or must, be called.

    Attributes:
        mode: none: no call; auto: the model decides; required: at least one call.
        names: The tools that may be called; empty: all. One name with `required` is a named function.
        parallel: Several calls in one answer are allowed.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """Checked but for what depends on the model.

    Attributes:
        messages: As chat templates read them: OpenAI's shape, contents texts, arguments of `tool_calls` objects.
        template: The name of one of the model's; empty: the default.
        template_kwargs: Further variables of the template, `reasoning_effort` among them.
        continue_final_message: The answer goes on with the last message's text.
        add_special_tokens: The tokenizer adds its own around what the template has written.
        include_reasoning: The answer shows the model's thinking.
        structured: What the answer's content must be; it starts after reasoning.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    template: str = ""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    include_reasoning: bool = True
    structured: StructuredOutput | None = None
    options: SamplingOptions = field(default_factory=SamplingOptions)
