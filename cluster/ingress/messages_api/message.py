"""One answer of /v1/messages: the object `message`, whole or as the events of a stream. What a delta's event has beside
its text is made once per block."""

import json
from collections.abc import Mapping
from typing import Any

from baton.errors import BatonError
from baton.v1 import inference_pb2
from cluster.ingress.answer import Delta, TokenUsage
from cluster.ingress.answer_parts import Kind, Logprobs, Part, Parts, Silent
from cluster.ingress.messages_errors import messages_error
from cluster.ingress.sse import dump_text, typed_event

SIGNATURE = "unsigned"  # of thoughts: clients want one, and send it back; it is not looked at
_DELTAS = {
    Kind.TEXT: ("text_delta", "text"),
    Kind.REASONING: ("thinking_delta", "thinking"),
    Kind.CALL: ("input_json_delta", "partial_json"),
}


class MessageEvents:
    """An answer's `Writer`."""

    def __init__(self, *, shows_thoughts: bool) -> None:
        self._shows_thoughts = shows_thoughts
        self._head = ""  # of the open block's deltas, before the text

    def begin(self, part: Part) -> str:
        kind, name = _DELTAS[part.kind]
        self._head = (
            "event: content_block_delta\n"
            f'data: {{"type":"content_block_delta","index":{part.index},"delta":{{"type":"{kind}","{name}":'
        )
        return typed_event("content_block_start", {"index": part.index, "content_block": self.begun(part)})

    def add(self, part: Part, text: str, logprobs: Logprobs) -> str:
        if part.kind is Kind.REASONING and not self._shows_thoughts:
            return ""
        return f"{self._head}{dump_text(text)}}}}}\n\n"

    def end(self, part: Part) -> str:
        signed = ""
        if part.kind is Kind.REASONING:
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = typed_event("content_block_delta", {"index": part.index, "delta": delta})
        return signed + typed_event("content_block_stop", {"index": part.index})

    def begun(self, part: Part) -> dict[str, Any]:
        """As it is before its first piece."""
        if part.kind is Kind.TEXT:
            return {"type": "text", "text": ""}
        if part.kind is Kind.REASONING:
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": {}}

    def block(self, part: Part) -> dict[str, Any]:
        begun = self.begun(part)
        if part.kind is Kind.TEXT:
            return begun | {"text": part.text}
        if part.kind is Kind.REASONING:
            return begun | {"thinking": part.text if self._shows_thoughts else "", "signature": SIGNATURE}
        return begun | {"input": _input(part.text)}


class MessageAnswer:
    """The `Shape` of one answer."""

    ping = typed_event("ping", {})

    def __init__(
        self,
        call_id: str,
        request_id: str,
        model: str,
        stops: tuple[str, ...],
        *,
        has_room: bool,
        shows_thoughts: bool,
        stream: bool,
    ) -> None:
        """
        Args:
            request_id: Of the HTTP request, for errors.
            has_room: As many tokens fit as were asked for: a cut answer is at `max_tokens`, not at the context's end.
        """
        self.headers: Mapping[str, str] = {"request-id": request_id}
        self._head = {"id": f"msg_{call_id}", "type": "message", "role": "assistant", "model": model}
        self._stops = stops
        self._cut = "max_tokens" if has_room else "model_context_window_exceeded"
        self._events = MessageEvents(shows_thoughts=shows_thoughts)
        self._parts = Parts(self._events if stream else Silent())
        self._last = Delta(choice=0)

    def begin(self, usage: TokenUsage) -> str:
        message = self._message([], None, None, _usage(usage))
        return typed_event("message_start", {"message": message}) + self.ping

    def event(self, delta: Delta) -> str:
        if delta.finish_reason:
            self._last = delta
        return self._parts.take(delta)

    def end(self, usage: TokenUsage) -> str:
        ended = self._parts.finish(is_cut=self._is_cut)
        reason, sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        ended += typed_event("message_delta", {"delta": delta, "usage": self._final_usage(usage)})
        return ended + typed_event("message_stop", {})

    def failure(self, error: BatonError, usage: TokenUsage) -> str:
        return f"event: error\ndata: {json.dumps(self.error_body(error))}\n\n"

    def whole(self, usage: TokenUsage) -> dict[str, Any]:
        blocks = [self._events.block(part) for part in self._parts.parts]
        return self._message(blocks, *self._stop(), self._final_usage(usage))

    def error_body(self, error: BatonError) -> dict[str, Any]:
        return messages_error(error, self.headers["request-id"])

    @property
    def _is_cut(self) -> bool:
        return self._last.finish_reason == inference_pb2.FINISH_REASON_LENGTH

    def _stop(self) -> tuple[str, str | None]:
        """`stop_reason` and `stop_sequence`."""
        if self._is_cut:
            return self._cut, None
        if self._last.stop_reason in self._stops:
            return "stop_sequence", self._last.stop_reason
        return ("tool_use" if self._parts.has_calls else "end_turn"), None

    def _message(
        self, blocks: list[dict[str, Any]], reason: str | None, sequence: str | None, usage: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {**self._head, "content": blocks, "stop_reason": reason, "stop_sequence": sequence, "usage": usage}

    def _final_usage(self, usage: TokenUsage) -> dict[str, Any]:
        return _usage(usage) | {"output_tokens_details": {"thinking_tokens": usage.reasoning_tokens}}


def _usage(usage: TokenUsage) -> dict[str, Any]:
    """`input_tokens` are those that no cache had."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _input(arguments: str) -> dict[str, Any]:
    """Of an answer that was cut amid a call, nothing: what has come of it is no JSON; nor is what nobody could read."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
