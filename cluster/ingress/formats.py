"""OpenAI's response shapes: whole bodies as dicts, stream events as text ready to send.

A stream event is put together from fragments made once per request; on the token path `json.dumps` sees the new text
alone.
"""

import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

from baton.v1 import inference_pb2
from cluster.ingress.answer import FINISH_REASONS, Delta, TokenUsage
from cluster.ingress.chat.events import CallBegins, Event
from cluster.ingress.chat.message_bodies import delta_bodies, message_body
from cluster.ingress.tokenizer import Tokenizer

LOWEST_LOGPROB = -9999.0  # JSON has no minus infinity
DONE = "data: [DONE]\n\n"
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_dump_text = json.JSONEncoder(ensure_ascii=True).encode  # C code; half a surrogate pair cannot break the stream


class Format(Protocol):
    """One request's shape; `whole` and `event` are fed the same deltas."""

    def event(self, delta: Delta) -> str:
        """Server-sent events for a delta, "" where it has nothing that the client could see."""
        ...

    def usage_event(self, usage: TokenUsage) -> str: ...

    def whole(self, choices: Sequence[Delta], usage: TokenUsage) -> dict[str, Any]:
        """The answer at once; `choices` are all deltas of each choice in one."""
        ...


class CompletionFormat:
    def __init__(self, *, request_id: str, model: str, tokenizer: Tokenizer, usage: bool) -> None:
        created = int(time.time())
        self._head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created, "model": model}
        self._start = "data: " + _dumps(self._head)[:-1] + ',"choices":['
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._tokenizer = tokenizer

    def event(self, delta: Delta) -> str:
        if not (delta.text or delta.finish_reason or delta.logprobs):
            return ""
        logprobs = _dumps(self._logprobs(delta)) if delta.logprobs else "null"
        return (
            f'{self._start}{{"index":{delta.choice},"text":{_dump_text(delta.text)},"logprobs":{logprobs},'
            f"{_finish(delta)}}}{self._end}"
        )

    def usage_event(self, usage: TokenUsage) -> str:
        return "data: " + _dumps({**self._head, "choices": [], "usage": usage_body(usage)}) + "\n\n"

    def whole(self, choices: Sequence[Delta], usage: TokenUsage) -> dict[str, Any]:
        bodies = [
            {
                "index": choice.choice,
                "text": choice.text,
                "logprobs": self._logprobs(choice) if choice.logprobs else None,
                "finish_reason": FINISH_REASONS[choice.finish_reason],
                "stop_reason": _stop_reason(choice),
            }
            for choice in choices
        ]
        return {**self._head, "choices": bodies, "usage": usage_body(usage)}

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        text = self._tokenizer.token_text
        tops = [
            {text(top.token_id): _finite(top.logprob) for top in reversed([*entry.top, entry.sampled])}
            for entry in delta.logprobs
        ]
        return {
            "tokens": [text(entry.sampled.token_id) for entry in delta.logprobs],
            "token_logprobs": [_finite(entry.sampled.logprob) for entry in delta.logprobs],
            "top_logprobs": tops,
            "text_offset": delta.offsets,
        }


class ChatFormat:
    def __init__(self, *, request_id: str, model: str, tokenizer: Tokenizer, usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}
        self._start = "data: " + _dumps({**self._head, "object": "chat.completion.chunk"})[:-1] + ',"choices":['
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._tokenizer = tokenizer
        self._begun: set[int] = set()
        self._callers: set[int] = set()  # choices that have called a function

    def event(self, delta: Delta) -> str:
        role = "" if delta.choice in self._begun else self._role_event(delta.choice)
        if delta.events is not None:
            return role + self._events(delta, delta.events)
        if not (delta.text or delta.finish_reason or delta.logprobs):
            return role
        logprobs = _dumps({"content": self._logprobs(delta), "refusal": None}) if delta.logprobs else "null"
        content = f'{{"content":{_dump_text(delta.text)}}}' if delta.text else "{}"
        return role + self._part(delta.choice, content, logprobs, _finish(delta))

    def usage_event(self, usage: TokenUsage) -> str:
        body = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_body(usage)}
        return "data: " + _dumps(body) + "\n\n"

    def whole(self, choices: Sequence[Delta], usage: TokenUsage) -> dict[str, Any]:
        bodies = [
            {
                "index": choice.choice,
                "message": message_body(choice.text if choice.events is None else choice.events),
                "logprobs": {"content": self._logprobs(choice), "refusal": None} if choice.logprobs else None,
                "finish_reason": _reason(choice, calls=any(isinstance(e, CallBegins) for e in choice.events or ())),
                "stop_reason": _stop_reason(choice),
            }
            for choice in choices
        ]
        return {**self._head, "object": "chat.completion", "choices": bodies, "usage": usage_body(usage)}

    def _events(self, delta: Delta, events: Sequence[Event]) -> str:
        """One server-sent event per part, logprobs with the first; the reason why it ends comes last."""
        if any(isinstance(event, CallBegins) for event in events):
            self._callers.add(delta.choice)
        logprobs = _dumps({"content": self._logprobs(delta), "refusal": None}) if delta.logprobs else "null"
        texts = []
        for part in delta_bodies(events) or ([{}] if delta.logprobs else []):
            texts.append(self._part(delta.choice, _dump_text(part), logprobs, '"finish_reason":null'))
            logprobs = "null"
        if delta.finish_reason:
            texts.append(self._part(delta.choice, "{}", "null", _finish(delta, calls=delta.choice in self._callers)))
        return "".join(texts)

    def _part(self, choice: int, delta: str, logprobs: str, finish: str) -> str:
        return f'{self._start}{{"index":{choice},"delta":{delta},"logprobs":{logprobs},{finish}}}{self._end}'

    def _role_event(self, choice: int) -> str:
        self._begun.add(choice)
        delta = '{"role":"assistant","content":""}'
        return self._part(choice, delta, "null", '"finish_reason":null')

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        return [
            {**self._token(entry.sampled), "top_logprobs": [self._token(top) for top in entry.top]}
            for entry in delta.logprobs
        ]

    def _token(self, token: inference_pb2.TokenLogprob) -> dict[str, Any]:
        return {
            "token": self._tokenizer.token_text(token.token_id),
            "logprob": _finite(token.logprob),
            "bytes": list(self._tokenizer.token_bytes(token.token_id)),
        }


def join_deltas(choice: Delta, delta: Delta) -> None:
    """Adds a delta to what its choice has so far."""
    choice.text += delta.text
    choice.token_ids += delta.token_ids
    choice.logprobs += delta.logprobs
    choice.offsets += delta.offsets
    choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
    if delta.events is not None:
        events = choice.events if isinstance(choice.events, list) else []
        events += delta.events
        choice.events = events


def usage_body(usage: TokenUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _reason(delta: Delta, *, calls: bool) -> str:
    reason = FINISH_REASONS[delta.finish_reason]
    return "tool_calls" if calls and reason == "stop" else reason


def _finish(delta: Delta, *, calls: bool = False) -> str:
    if not delta.finish_reason:
        return '"finish_reason":null'
    reason = _reason(delta, calls=calls)
    return f'"finish_reason":"{reason}","stop_reason":{_dumps(_stop_reason(delta))}'


def _stop_reason(choice: Delta) -> str | int | None:
    """vLLM's addition: the stop string, the stop token's id, or null for the end of text."""
    return choice.stop_reason or None


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
