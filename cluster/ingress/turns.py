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
    """A message's pieces are joined once, when it is read or another begins: there may be a hundred thousand."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._texts: list[str] = []  # of the last message
        self._thoughts: list[str] = []  # of the last message
        self._calls: dict[str, str] = {}  # id -> the function's name
        self._unanswered: dict[str, None] = {}  # ids, in order
        self._joint = _BETWEEN_MESSAGES

    @property
    def messages(self) -> list[dict[str, Any]]:
        self._join()
        return self._messages

    def new_message(self) -> None:
        """What follows is another message of the client's."""
        self._joint = _BETWEEN_MESSAGES

    def say(self, speaker: Speaker, text: str) -> None:
        is_first = all(message["role"] == "system" for message in self._messages)
        role = "system" if is_first and speaker == "developer" else speaker
        if self._last_role != role:
            self._begin({"role": role, "content": ""})
        self._append(text)

    def answer(self, text: str) -> None:
        self._assistant()
        self._append(text)

    def think(self, text: str) -> None:
        self._assistant()
        if self._thoughts == [""]:
            self._thoughts.clear()
        self._thoughts.append(text)

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
        self._begin({"role": "tool", "tool_call_id": call_id, "name": name, "content": text})

    def check_results(self, path: str, advice: str) -> None:
        """Raises: InvalidRequestError: a call has no result."""
        for call_id in self._unanswered:
            raise refusal(path, f"{path} has the call {shorten(call_id)} without its result; {advice}")

    @property
    def ends_with_answer(self) -> bool:
        return self._last_role == "assistant"

    @property
    def _last_role(self) -> str:
        return str(self._messages[-1]["role"]) if self._messages else ""

    def _assistant(self) -> dict[str, Any]:
        if self._last_role != "assistant":
            self._begin({"role": "assistant", "content": ""})
        return self._messages[-1]

    def _begin(self, message: dict[str, Any]) -> None:
        self._join()
        self._texts, self._thoughts = [], []
        self._messages.append(message)

    def _append(self, text: str) -> None:
        if text:
            self._texts += [self._joint, text] if self._texts else [text]
        self._joint = _WITHIN_A_MESSAGE

    def _join(self) -> None:
        if self._texts:
            self._messages[-1]["content"] = "".join(self._texts)
        if self._thoughts:
            self._messages[-1].update(dict.fromkeys(REASONING, "\n".join(self._thoughts)))


_SYSTEM = ("developer", "system")


def has_late_system(messages: Sequence[Mapping[str, Any]]) -> bool:
    """The system, or the developer, says something after another has spoken."""
    return any(message["role"] in _SYSTEM for message in messages[1:])


def without_late_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the system says after the first message is the user's, as one with what the user says beside it."""
    runs: list[list[Mapping[str, Any]]] = [list(messages[:1])]  # of a user's messages in a row, and others alone
    for message in messages[1:]:
        if message["role"] in _SYSTEM:
            message = {**message, "role": "user"}
        if message["role"] == runs[-1][0]["role"] == "user":
            runs[-1].append(message)
        else:
            runs.append([message])
    return [
        run[0] if len(run) == 1 else {**run[0], "content": _BETWEEN_MESSAGES.join(one["content"] for one in run)}
        for run in runs
    ]
