"""How a family of models writes calls of tools."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag


class ToolFormat(Protocol):
    """
    Attributes:
        name: What vLLM's `--tool-call-parser` calls it.
        aliases: Further names.
        shown: Texts that are special tokens in its models' vocabularies, and that the parser must see.
    """

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def shown(self) -> tuple[str, ...]: ...

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        """Of one choice's text.

        Args:
            held: A call's events wait until it is whole, so that a malformed one is content from its first character
                on: for answers that are not streamed. Otherwise a call that breaks within its arguments ends there.
        """
        ...

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        """Texts with which calls of these tools begin; each of their tags begins with one."""
        ...

    def tag(self, tool: Tool) -> Tag:
        """A call of the tool as a grammar forces it; tags may follow each other, and `parser` reads them."""
        ...


def names_of(tools: Sequence[Tool]) -> frozenset[str]:
    return frozenset(tool.name for tool in tools)


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """Of the arguments, an object's always."""
    return {"type": "object", **tool.parameters}


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
