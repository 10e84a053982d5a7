"""One answer of /v1/responses: the object `response`, whole or as the events of a stream."""

import time
from collections.abc import Mapping
from typing import Any

from baton.errors import BatonError
from baton.v1 import inference_pb2
from cluster.ingress.answer import Delta, TokenUsage
from cluster.ingress.answer_parts import Parts, Silent
from cluster.ingress.errors import error_body
from cluster.ingress.responses_api.events import ResponseEvents
from cluster.ingress.responses_api.output import OutputItems

_FAILURES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
# Fields that the object repeats as they were sent, with their values where they were not.
_REPEATED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "user": None,
}
_ALWAYS: Mapping[str, Any] = {
    "background": False,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "truncation": "disabled",
}


class ResponseAnswer:
    """The `Shape` of one answer."""

    ping = ": waiting\n\n"
    headers: Mapping[str, str] = {}

    def __init__(
        self, request_id: str, model: str, said: Mapping[str, Any], output: OutputItems, *, stream: bool
    ) -> None:
        """`said`: fields of the request, as they hold."""
        repeated = {name: said.get(name, value) for name, value in _REPEATED.items()}
        sampled = {name: said.get(name) for name in ("temperature", "top_p")}
        head = {"id": f"resp_{request_id}", "object": "response", "created_at": int(time.time()), "model": model}
        self._head = {**head, **_ALWAYS, **repeated, **sampled}
        self._output = output
        self._events = ResponseEvents(output)
        self._parts = Parts(self._events if stream else Silent())
        self._is_cut = False

    def begin(self, usage: TokenUsage) -> str:
        response = self._response("in_progress")
        return self._events.event("response.created", response=response) + self._events.event(
            "response.in_progress", response=response
        )

    def event(self, delta: Delta) -> str:
        if delta.finish_reason:
            self._is_cut = delta.finish_reason == inference_pb2.FINISH_REASON_LENGTH
        return self._parts.take(delta)

    def end(self, usage: TokenUsage) -> str:
        ended = self._parts.finish(is_cut=self._is_cut)
        kind = "response.incomplete" if self._is_cut else "response.completed"
        return ended + self._events.event(kind, response=self.whole(usage))

    def failure(self, error: BatonError, usage: TokenUsage) -> str:
        code = _FAILURES.get(error.http_status, "server_error")
        response = self._response("failed", error={"code": code, "message": error.message}, usage=self._usage(usage))
        return self._events.event("response.failed", response=response)

    def whole(self, usage: TokenUsage) -> dict[str, Any]:
        more: dict[str, Any] = {"usage": self._usage(usage)}
        if self._is_cut:
            return self._response("incomplete", incomplete_details={"reason": "max_output_tokens"}, **more)
        return self._response("completed", completed_at=int(time.time()), **more)

    def error_body(self, error: BatonError) -> dict[str, Any]:
        return error_body(error)

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        output = [] if status == "in_progress" else [self._output.ended(part) for part in self._parts.parts]
        empty = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return {**self._head, "status": status, "output": output, **empty, **more}

    def _usage(self, usage: TokenUsage) -> dict[str, Any]:
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
