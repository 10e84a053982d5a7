"""Which fields a request body may have, checked by name before its values are.

A known field that is not supported is refused unless its value means "off"; harmless ones are accepted from a list;
anything else is unknown and answered with the nearest known name.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from baton.errors import InvalidRequestError

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
    """Raises: InvalidRequestError: not a JSON object."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply; nest less") from error
    except ValueError as error:  # bytes that are not UTF-8 too
        raise InvalidRequestError(f"the body is not JSON ({error}); send one JSON object in UTF-8") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body is {shorten(value)}; send one JSON object")
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
            raise InvalidRequestError(_unknown(name, known), field=name)
    return kept


def shorten(value: Any) -> str:
    """A value as it stood in the JSON, cut to fit a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


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
    close = difflib.get_close_matches(name, [*known, *HARMLESS], n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "leave it out"
    return f"{name} is not a field of this request; {hint}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
