"""A prompt that ends within the last message's text, for an answer that goes on with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from baton.errors import InvalidRequestError

_FIELD = "continue_final_message"
# Behind the text while the template writes it. Where the space is gone, the template has stripped the text.
_MARK = "\N{BLACK RIGHT-POINTING POINTER}to be continued\N{BLACK LEFT-POINTING POINTER} "


def with_mark(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Raises: InvalidRequestError: the last message has no text."""
    last = messages[-1]
    if not last["content"]:
        raise InvalidRequestError(
            f"{_FIELD} is true and the last message has no text to go on with; send some, or leave it out", _FIELD
        )
    return [*messages[:-1], {**last, "content": last["content"] + _MARK}]


def cut_at_mark(prompt: str) -> str:
    """Raises: InvalidRequestError: the template does not write the last message's text."""
    at = prompt.rfind(_MARK.rstrip())
    if at < 0:
        raise InvalidRequestError(
            f"{_FIELD} is true and this model's chat template drops the text of the last message; leave it out",
            _FIELD,
        )
    return prompt[:at] if prompt.startswith(_MARK, at) else prompt[:at].rstrip()
