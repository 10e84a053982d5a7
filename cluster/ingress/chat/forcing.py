"""What a grammar forces of an answer with tools: calls that must come, and strict ones from where they begin."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.chat.formats.tool_format import ToolFormat
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.structured.output import JsonSchema, StructuredOutput, Tag, Tagged

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def forced_form(request: ChatRequest, tool_format: ToolFormat, *, content_head: str = "") -> StructuredOutput | None:
    """The form of an answer to a request with tools; None: the model is free.

    Args:
        content_head: What the model's format has before content that is no call.
    Raises: InvalidRequestError: the content must have a form that is no JSON, and calls are left to the model.
    """
    choice = request.tool_choice
    is_required = choice.mode == "required"
    tools = [tool for tool in request.tools if not choice.names or tool.name in choice.names]
    content = None if is_required else request.structured
    if not (is_required or content or choice.names or any(tool.strict for tool in tools)):
        return None
    if content is not None and not isinstance(content, JsonSchema):
        raise InvalidRequestError(
            f"{content.named} goes with tools where it is JSON, or where a call must be made or must not: set "
            'tool_choice to "required" or "none", or leave one of the two out',
            field=content.named.partition(".")[0],
        )
    if not is_required:
        tools = [tool if tool.strict else replace(tool, parameters=_ANY_OBJECT) for tool in tools]
    return Tagged(
        tags=tuple(tool_format.tag(tool) for tool in tools),
        triggers=tool_format.triggers(tools),
        required=is_required or content is not None,
        at_most_one=not choice.parallel or (is_required and len(choice.names) == 1),
        instead=None if content is None else Tag(content_head, content.schema, ""),
        named="tools" if content is None else content.named,
    )
