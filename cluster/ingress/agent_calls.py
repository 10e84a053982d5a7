"""Agents' chats become prompts here, also for models whose templates want nothing said by the system midway."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from baton.errors import InvalidRequestError
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.turns import has_late_system, without_late_system

T = TypeVar("T")


async def with_any_template(chat: ChatRequest, make: Callable[[ChatRequest], Awaitable[T]]) -> T:
    """What `make` makes of the chat; where that is refused, of one in which the user says what the system says midway.

    Raises: InvalidRequestError: as `make`.
    """
    try:
        return await make(chat)
    except InvalidRequestError:
        if not has_late_system(chat.messages):
            raise
    return await make(replace(chat, messages=without_late_system(chat.messages)))
