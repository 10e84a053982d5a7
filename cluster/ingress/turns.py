"""Builds the messages that chat templates read out of what agents send piece by piece: texts, thoughts, calls, results.

Pieces of one turn become one message, as templates of models want turns that alternate: what comes before the first
turn of a user is one system message; thoughts, texts and calls that follow each other are one assistant's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cluster.ingress.fields import shorten
from cluster.ingress.messages import REASONING
from cluster.ingress.reading import refusal

_BETWEEN_MESSAGES, _WITHIN_A_MESSAGE = "\n\n", "\n"
Speaker = Literal["system", "developer", "user"]


class Turns:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._calls: dict[str, str] = {}  # id -> the function's name
        self._unanswered: dict[str, None] = {}  # ids, in order
        self._joint = _BETWEEN_MESSAGES

    def new_message(self) -> None:
        """What follows is another message of the client's."""
        self._joint = _BETWEEN_MESSAGES

    def say(self, speaker: Speaker, text: str) -> None:
        is_first = all(message["role"] == "system" for message in self.messages)
        role = "system" if is_first and speaker == "developer" else speaker
        if self._last_role != role:
            self.messages.append({"role": role, "content": ""})
        self._append(self.messages[-1], text)

    def answer(self, text: str) -> None:
        self._append(self._assistant(), text)

    def think(self, text: str) -> None:
        message = self._assistant()
        before = message.get(REASONING[0])
        message.update(dict.fromkeys(REASONING, f"{before}\n{text}" if before else text))

    def call(self, call_id: str, name: str, arguments: Mapping[str, Any], path: str) -> None:
        """Raises: InvalidRequestError: another call has this id."""
        if call_id in self._calls:
            raise refusal(path, f"{path} is {shorten(call_id)}, and so is an earlier call's; ids do not repeat")
        self._calls[call_id] = name
        self._unanswered[call_id] = None
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": dict(arguments)}})

    def result(self, call_id: str, text: str, path: str) -> None:
        """Raises: InvalidRequestError: no call before it has this id."""
        name = self._calls.get(call_id)
        if name is None:
            raise refusal(path, f"{path} is {shorten(call_id)}, and no call before it has this id; send the call too")
        self._unanswered.pop(call_id, None)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "name": name, "content": text})

    def check_results(self, path: str, advice: str) -> None:
        """Raises: InvalidRequestError: a call has no result."""
        for call_id in self._unanswered:
            raise refusal(path, f"{path} has the call {shorten(call_id)} without its result; {advice}")

    @property
    def ends_with_answer(self) -> bool:
        return self._last_role == "assistant"

    @property
    def _last_role(self) -> str:
        return str(self.messages[-1]["role"]) if self.messages else ""

    def _assistant(self) -> dict[str, Any]:
        if self._last_role != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]

    def _append(self, message: dict[str, Any], text: str) -> None:
        before = message["content"]
        message["content"] = before + self._joint + text if before and text else before or text
        self._joint = _WITHIN_A_MESSAGE


_SYSTEM = ("developer", "system")


def has_late_system(messages: Sequence[Mapping[str, Any]]) -> bool:
    """The system, or the developer, says something after another has spoken."""
    return any(message["role"] in _SYSTEM for message in messages[1:])


def without_late_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the system says after the first message is the user's, as one with what the user says beside it."""
    kept: list[Mapping[str, Any]] = list(messages[:1])
    for message in messages[1:]:
        if message["role"] in _SYSTEM:
            message = {**message, "role": "user"}
        last = kept[-1]
        if message["role"] == last["role"] == "user":
            kept[-1] = {**last, "content": last["content"] + _BETWEEN_MESSAGES + message["content"]}
        else:
            kept.append(message)
    return kept
