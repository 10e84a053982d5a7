"""Makes an Answer of what a server sends: one JSON object, or the events of a stream as far as they came."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.soak.ask import Answer, Said

LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "message_stop")


@dataclass(slots=True)
class Part:
    """A choice while it comes."""

    text: str = ""
    finish: str = ""
    calls: list[list[str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def said(self) -> Said:
        return Said(
            text=self.text,
            finish=self.finish,
            calls=tuple((name, in_order(arguments)) for name, arguments in self.calls),
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
        )


class Reader:
    """Of one answer; `api` is a key of `ask.PATHS`."""

    def __init__(self, api: str) -> None:
        self._take = {"completions": self._choices, "chat": self._choices}.get(api) or (
            self._response if api == "responses" else self._message
        )
        self.parts: dict[int, Part] = {}
        self.num_tokens: int | None = None
        self.error = ""  # that the stream told of instead of more
        self.is_whole = False
        self._places: dict[int, int] = {}  # of responses and messages: output index -> place among calls

    def answer(self) -> Answer:
        count = max(self.parts, default=-1) + 1
        return Answer(
            choices=tuple(self.parts.get(index, Part()).said() for index in range(count)), num_tokens=self.num_tokens
        )

    def whole(self, reply: Mapping[str, Any]) -> None:
        """All of it in one object."""
        self._take(reply)
        self.is_whole = True

    def event(self, data: str, event: Mapping[str, Any] | None) -> None:
        """One event of a stream; None: `data` is no JSON."""
        if data == "[DONE]" or (event is not None and event.get("type") in LAST_EVENTS):
            self.is_whole = True
        if event is None:
            return
        if event.get("error"):
            self.error = str(event["error"])[:300]
        self._take(event)

    def part(self, index: int = 0) -> Part:
        return self.parts.setdefault(index, Part())

    def _choices(self, event: Mapping[str, Any]) -> None:
        if usage := event.get("usage"):
            self.num_tokens = usage["completion_tokens"]
        for choice in event.get("choices", ()):
            part = self.part(choice["index"])
            message = choice.get("message") or choice.get("delta") or {}
            part.text += choice.get("text") or message.get("content") or ""
            part.finish = choice.get("finish_reason") or part.finish
            for place, call in enumerate(message.get("tool_calls") or ()):
                self._call(part, call.get("index", place), call["function"])
            self._logprobs(part, choice.get("logprobs") or {})

    def _call(self, part: Part, place: int, function: Mapping[str, Any]) -> None:
        while len(part.calls) <= place:
            part.calls.append(["", ""])
        part.calls[place][0] += function.get("name") or ""
        part.calls[place][1] += function.get("arguments") or ""

    def _logprobs(self, part: Part, logprobs: Mapping[str, Any]) -> None:
        if "tokens" in logprobs:
            part.tokens += logprobs["tokens"]
            part.logprobs += logprobs["token_logprobs"]
        for entry in logprobs.get("content") or ():
            part.tokens.append(entry["token"])
            part.logprobs.append(entry["logprob"])

    def _response(self, event: Mapping[str, Any]) -> None:
        part, kind = self.part(), event.get("type")
        if kind is None:
            self._end_of_response(part, event, is_stream=False)
        elif kind == "response.output_text.delta":
            part.text += event["delta"]
        elif kind == "response.output_item.added" and event["item"]["type"] == "function_call":
            self._places[event["output_index"]] = len(part.calls)
            part.calls.append([event["item"]["name"], ""])
        elif kind == "response.function_call_arguments.delta":
            part.calls[self._places[event["output_index"]]][1] += event["delta"]
        elif kind in LAST_EVENTS:
            self._end_of_response(part, event["response"], is_stream=True)

    def _end_of_response(self, part: Part, response: Mapping[str, Any], *, is_stream: bool) -> None:
        text, calls = "", []
        for item in response["output"]:
            text += "".join(content["text"] for content in item.get("content") or ())
            if item["type"] == "function_call":
                calls.append([item["name"], item["arguments"]])
        if is_stream and (text, calls) != (part.text, part.calls):
            self.error = f"the deltas add up to {part.text!r} {part.calls}, the last event says {text!r} {calls}"
        part.text, part.calls = text, calls
        part.finish = (response.get("incomplete_details") or {}).get("reason") or response["status"]
        self.num_tokens = response["usage"]["output_tokens"]

    def _message(self, event: Mapping[str, Any]) -> None:
        part, kind = self.part(), event.get("type")
        if kind == "message":
            self._whole_message(part, event)
        elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            self._places[event["index"]] = len(part.calls)
            part.calls.append([event["content_block"]["name"], ""])
        elif kind == "content_block_delta" and event["delta"]["type"] == "text_delta":
            part.text += event["delta"]["text"]
        elif kind == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            part.calls[self._places[event["index"]]][1] += event["delta"]["partial_json"]
        elif kind == "message_delta":
            part.finish = event["delta"]["stop_reason"]
            self.num_tokens = event["usage"]["output_tokens"]

    def _whole_message(self, part: Part, message: Mapping[str, Any]) -> None:
        part.text = "".join(block.get("text", "") for block in message["content"])
        used = [block for block in message["content"] if block["type"] == "tool_use"]
        part.calls = [[block["name"], json.dumps(block["input"])] for block in used]
        part.finish = message["stop_reason"]
        self.num_tokens = message["usage"]["output_tokens"]


def in_order(arguments: str) -> str:
    """JSON as one text whatever its blanks and order were; anything else as it is."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments
