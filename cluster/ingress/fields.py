"""Which fields a request body may have, checked by name before its values are.

A known field that is not supported is refused unless its value means "off"; harmless ones are accepted from a list;
anything else is unknown and answered with the nearest known name.
"""

import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from baton.errors import InvalidRequestError

MAX_NAME = 80  # characters of one in a message; no field has as many

# They change no answer: who asks, where a copy goes, what it is billed as.
HARMLESS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# name -> the values that ask for nothing; null always is one.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (),  # or equal to n, see check_fields
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_embeds": (),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}

# name -> what to send instead, where that is more than nothing.
_INSTEAD = {
    "best_of": "send best_of equal to n, or leave it out",
    "function_call": "send tool_choice, its newer name",
    "functions": "send tools, its newer name",
}


def parse_object(body: bytes) -> dict[str, Any]:
    """Raises: InvalidRequestError: not a JSON object, or one with a number that no answer could repeat."""
    too_large: list[str] = []

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            too_large.append(text)
        return value

    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_float=finite)
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply; nest less") from error
    except ValueError as error:  # bytes that are not UTF-8 too
        raise InvalidRequestError(f"the body is not JSON ({error}); send one JSON object in UTF-8") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body is {shorten(value)}; send one JSON object")
    name = next((name for name, one in value.items() if not _is_finite(one)), None) if too_large else None
    if name is not None:
        raise InvalidRequestError(
            f"{shown_name(name)} has {shown_name(too_large[0])}, which is too large a number; send a smaller one",
            field=shown_name(name),
        )
    return value


def check_fields(body: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The body's known fields that have a value. Raises: InvalidRequestError: a field is unknown or not supported."""
    kept = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                kept[name] = value
        elif name in UNSUPPORTED:
            _check_off(name, value, body)
        elif name not in HARMLESS:
            raise InvalidRequestError(_unknown(name, known), field=shown_name(name))
    return kept


def shown_name(name: str) -> str:
    """A client's name for something, cut to fit a message."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."


def shorten(value: Any) -> str:
    """A value as it stood in the JSON, cut to fit a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def advice(name: str, known: Collection[str]) -> str:
    """What to do about a field of this name, which is none."""
    if len(name) > MAX_NAME:  # what is close to it is nobody's field, and would take a second to find out
        return "leave it out"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "leave it out"


def _check_off(name: str, value: Any, body: Mapping[str, Any]) -> None:
    is_off = value is None or any(type(value) is type(off) and value == off for off in UNSUPPORTED[name])
    if name == "best_of" and value == (body.get("n") or 1):
        is_off = True
    if not is_off:
        hint = _INSTEAD.get(name, "leave it out")
        raise InvalidRequestError(
            f"{name} is {shorten(value)}; this server does not support {name}: {hint}", field=name
        )


def _unknown(name: str, known: Collection[str]) -> str:
    return f"{shown_name(name)} is not a field of this request; {advice(name, [*known, *HARMLESS])}"


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
