"""Values of a JSON body, read by their type. What does not fit is refused by its path, as `input[2].content`."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten, shown_name


def refusal(path: str, message: str) -> InvalidRequestError:
    """`message` begins with the path; the error's field is the path's first name."""
    return InvalidRequestError(message, field=re.split(r"[.\[]", path, maxsplit=1)[0])


def wrong(value: Any, path: str, expected: str) -> InvalidRequestError:
    return refusal(path, f"{path} is {shorten(value)}; it must be {expected}")


def text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong(value, path, "a string")
    return value


def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(value, path, "true or false")
    return value


def whole(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(value, path, "a whole number")
    return value


def items(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(value, path, "a list")
    return value


def mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(value, path, "an object")
    return value


def word(value: Any, path: str, words: Collection[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise wrong(value, path, f"one of {', '.join(sorted(words))}")
    return value


def member(value: Mapping[str, Any], name: str, path: str) -> Any:
    """What must be there. Raises: InvalidRequestError: it is missing, or null."""
    found = value.get(name)
    if found is None:
        raise refusal(path, f"{path}.{name} is missing; send it")
    return found


def only(value: Mapping[str, Any], known: Collection[str], path: str) -> None:
    """Raises: InvalidRequestError: a member that is neither known nor null."""
    for name, item in value.items():
        if name not in known and item is not None:
            raise refusal(
                path, f"{path}.{shown_name(name)} is {shorten(item)}; this server does not support it: leave it out"
            )
