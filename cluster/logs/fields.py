"""Lines of the form "constant message key=value": made of fields, and taken apart again.

A template's placeholders that stand behind `name=` are its fields; what is left is the message.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"(?:(?P<name>[A-Za-z_][A-Za-z0-9_.]*)=)?%(?P<form>[-#0 +]*[0-9]*(?:\.[0-9]+)?[a-zA-Z])|%%")


def log_fields(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """One line of `message` and those of the fields that are not None, in their order."""
    if not logger.isEnabledFor(level):
        return
    said = {name: value for name, value in fields.items() if value is not None}
    template = " ".join([message.replace("%", "%%"), *(f"{name}=%s" for name in said)])
    logger.log(level, template, *said.values())


def taken_apart(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """(message without its fields, fields by name); numbers and booleans stay what they are."""
    template = str(record.msg)
    args = record.args
    if not args or not isinstance(args, tuple):
        return record.getMessage(), {}
    fields: dict[str, Any] = {}
    kept: list[str] = []
    at, used = 0, 0
    for found in _PLACEHOLDER.finditer(template):
        kept.append(template[at : found.start()])
        at = found.end()
        if found["form"] is None:
            kept.append("%")
        elif used < len(args):
            if found["name"]:
                fields[found["name"]] = _plain(args[used], found["form"])
            else:
                kept.append(("%" + found["form"]) % (args[used],))
            used += 1
    kept.append(template[at:])
    return " ".join("".join(kept).split()), fields


def _plain(value: Any, form: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ("%" + form) % (value,)
