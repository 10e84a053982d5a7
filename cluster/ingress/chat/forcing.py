"""What a grammar forces of an answer with tools: calls that must come, and strict ones from where they begin."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.chat.formats.tool_format import ToolFormat
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.structured.output import StructuredOutput, Tagged

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def forced_form(request: ChatRequest, tool_format: ToolFormat) -> StructuredOutput | None:
    """The form of an answer to a request with tools; None: the model is free.

    Raises: InvalidRequestError: it asks for a form of the content too, and leaves calls to the model.
    """
    choice = request.tool_choice
    tools = [tool for tool in request.tools if not choice.names or tool.name in choice.names]
    is_required = choice.mode == "required"
    if not is_required:
        if request.structured is not None:
            raise InvalidRequestError(
                "response_format goes with calls that must be made or must not: "
                'set tool_choice to "required" or "none", or leave one of the two out',
                field="response_format",
            )
        if not choice.names and not any(tool.strict for tool in tools):
            return None
        tools = [tool if tool.strict else replace(tool, parameters=_ANY_OBJECT) for tool in tools]
    is_single = is_required and len(choice.names) == 1
    return Tagged(
        tags=tuple(tool_format.tag(tool) for tool in tools),
        triggers=tool_format.triggers(tools),
        required=is_required,
        at_most_one=is_single or not choice.parallel,
    )
