"""A shape whose streamed events each tell the usage so far, as vLLM's `continuous_usage_stats` asks."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from cluster.ingress.answer import Delta, TokenUsage
from cluster.ingress.formats import Format, usage_body

_NONE = '"usage":null}\n\n'  # the end of every event; within one, line ends are escaped


class ContinuousUsage:
    """A Format around one that has been told that usage is wanted."""

    def __init__(self, shape: Format, usage: Callable[[], TokenUsage]) -> None:
        """`usage`: of all choices, by now."""
        self._shape = shape
        self._usage = usage

    def event(self, delta: Delta) -> str:
        text = self._shape.event(delta)
        return text.replace(_NONE, f'"usage":{json.dumps(usage_body(self._usage()))}}}\n\n') if text else text

    def usage_event(self, usage: TokenUsage) -> str:
        return self._shape.usage_event(usage)

    def whole(self, choices: Sequence[Delta], usage: TokenUsage) -> dict[str, Any]:
        return self._shape.whole(choices, usage)
