"""OpenAI's response shapes: whole bodies as dicts, stream events as text ready to send.

A stream event is put together from fragments made once per request; on the token path `json.dumps` sees the new text
alone.
"""

import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

from cluster.ingress.answer import FINISH_REASONS, Delta, TokenUsage
from cluster.ingress.chat.events import CallBegins, Content, Event
from cluster.ingress.chat.message_bodies import delta_bodies, message_body
from cluster.ingress.logprob_json import finite, token_json
from cluster.ingress.prompt_shapes import PromptView, prompt_logprobs
from cluster.ingress.prompt_tokens import PromptToken
from cluster.ingress.tokenizer import Tokenizer

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
    """
    Args:
        prompts: What to show of the prompts; None: nothing.
    """

    def __init__(
        self, *, request_id: str, model: str, tokenizer: Tokenizer, usage: bool, prompts: PromptView | None = None
    ) -> None:
        created = int(time.time())
        self._head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created, "model": model}
        self._start = "data: " + _dumps(self._head)[:-1] + ',"choices":['
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._echoed: set[int] = set()  # choices whose prompt's text is out, where it goes as a whole

    def event(self, delta: Delta) -> str:
        if self._prompts is not None:
            return self._event_with_prompt(self._prompts, delta)
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
        bodies = [self._choice(choice) for choice in choices]
        return {**self._head, "choices": bodies, "usage": usage_body(usage)}

    def _choice(self, choice: Delta) -> dict[str, Any]:
        echo = self._prompts.echo(choice.choice) if self._prompts is not None else None
        logprobs = self._logprobs(choice) if choice.logprobs else None
        if self._prompts is not None and self._prompts.logprobs is not None and echo is not None and choice.prompt:
            logprobs = _joined(self._prompt_logprobs(choice.prompt, self._prompts.logprobs, echo.offsets), logprobs)
        body = {
            "index": choice.choice,
            "text": choice.text if echo is None else echo.text + choice.text,
            "logprobs": logprobs,
            "finish_reason": FINISH_REASONS[choice.finish_reason],
            "stop_reason": _stop_reason(choice),
        }
        if self._prompts is not None and self._prompts.prompt_logprobs is not None:
            body["prompt_logprobs"] = self._by_id(choice.prompt or ())
        return body

    def _event_with_prompt(self, prompts: PromptView, delta: Delta) -> str:
        """The prompt's tokens come piece by piece, each with its text; its text alone with the first event."""
        echo = prompts.echo(delta.choice)
        text, logprobs = delta.text, self._logprobs(delta) if delta.logprobs else None
        if echo is not None and prompts.logprobs is None and delta.choice not in self._echoed:
            self._echoed.add(delta.choice)
            text = echo.text + text
        elif echo is not None and prompts.logprobs is not None and delta.prompt:
            start, end = delta.prompt_start, delta.prompt_start + len(delta.prompt)
            text = echo.piece(start, end)
            logprobs = self._prompt_logprobs(delta.prompt, prompts.logprobs, echo.offsets[start:end])
        by_id = self._by_id(delta.prompt) if delta.prompt and prompts.prompt_logprobs is not None else None
        if not (text or delta.finish_reason or logprobs or by_id):
            return ""
        more = "" if by_id is None else f',"prompt_logprobs":{_dumps(by_id)}'
        return (
            f'{self._start}{{"index":{delta.choice},"text":{_dump_text(text)},"logprobs":{_dumps(logprobs)},'
            f"{_finish(delta)}{more}}}{self._end}"
        )

    def _by_id(self, tokens: Sequence[PromptToken]) -> list[dict[str, Any] | None]:
        assert self._prompts is not None
        return prompt_logprobs(tokens, self._tokenizer, self._prompts.prompt_logprobs)

    def _prompt_logprobs(self, tokens: Sequence[PromptToken], num_top: int, offsets: Sequence[int]) -> dict[str, Any]:
        name = self._tokenizer.token_name
        tops = [[(token.token_id, token.logprob), *token.top[:num_top]] for token in tokens]
        return {
            "tokens": [name(token.token_id) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {name(token_id): finite(logprob) for token_id, logprob in reversed(top) if logprob is not None} or None
                for top in tops
            ],
            "text_offset": list(offsets),
        }

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        name = self._tokenizer.token_name
        tops = [
            {name(top.token_id): finite(top.logprob) for top in reversed([*entry.top, entry.sampled])}
            for entry in delta.logprobs
        ]
        echo = self._prompts.echo(delta.choice) if self._prompts is not None else None
        begin = len(echo.text) if echo is not None else 0
        return {
            "tokens": [name(entry.sampled.token_id) for entry in delta.logprobs],
            "token_logprobs": [finite(entry.sampled.logprob) for entry in delta.logprobs],
            "top_logprobs": tops,
            "text_offset": [begin + offset for offset in delta.offsets] if begin else delta.offsets,
        }


def _joined(first: dict[str, Any], second: dict[str, Any] | None) -> dict[str, Any]:
    return first if second is None else {name: [*first[name], *second[name]] for name in first}


class ChatFormat:
    def __init__(self, *, request_id: str, model: str, tokenizer: Tokenizer, usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}
        self._start = "data: " + _dumps({**self._head, "object": "chat.completion.chunk"})[:-1] + ',"choices":['
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._tokenizer = tokenizer
        self._begun: set[int] = set()
        self._callers: set[int] = set()  # choices that have called a function

    def event(self, delta: Delta) -> str:
        if delta.prompt is not None:
            return self._prompt_event(delta)
        role = "" if delta.choice in self._begun else self._role_event(delta.choice)
        text = delta.text
        if delta.events is not None:
            if len(delta.events) != 1 or type(delta.events[0]) is not Content or delta.finish_reason:
                return role + self._events(delta, delta.events)
            text = delta.events[0].text
        if not (text or delta.finish_reason or delta.logprobs):
            return role
        logprobs = _dumps({"content": self._logprobs(delta), "refusal": None}) if delta.logprobs else "null"
        content = f'{{"content":{_dump_text(text)}}}' if text else "{}"
        return (
            f'{role}{self._start}{{"index":{delta.choice},"delta":{content},"logprobs":{logprobs},'
            f"{_finish(delta)}}}{self._end}"
        )

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
        body = {**self._head, "object": "chat.completion", "choices": bodies, "usage": usage_body(usage)}
        prompt = next((choice.prompt for choice in choices if choice.prompt), None)
        return body if prompt is None else {**body, "prompt_logprobs": prompt_logprobs(prompt, self._tokenizer)}

    def _prompt_event(self, delta: Delta) -> str:
        """The next tokens of the prompt, which all choices have in common."""
        if delta.choice or not delta.prompt:
            return ""
        shown = prompt_logprobs(delta.prompt, self._tokenizer)
        return f'{self._start}],"prompt_logprobs":{_dumps(shown)}{self._end.removeprefix("]")}'

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
            {
                **token_json(entry.sampled, self._tokenizer),
                "top_logprobs": [token_json(top, self._tokenizer) for top in entry.top],
            }
            for entry in delta.logprobs
        ]


def join_deltas(choice: Delta, delta: Delta) -> None:
    """Adds a delta to what its choice has so far."""
    choice.text += delta.text
    choice.token_ids += delta.token_ids
    choice.logprobs += delta.logprobs
    choice.offsets += delta.offsets
    if delta.prompt is not None:
        choice.prompt = choice.prompt or []  # its own: choices share the deltas'
        choice.prompt += delta.prompt
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
