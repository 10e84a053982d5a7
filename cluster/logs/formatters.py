"""How a line of the log looks: text for people, or one JSON object. Both carry the ids of the request it is about."""

import json
import logging
import time
from typing import Any

from cluster.logs.fields import taken_apart
from cluster.logs.subject import current_subject

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_OWN = frozenset(("ts", "level", "logger", "message", "exception", "stack"))


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = _one_line(super().formatMessage(record))
        subject = current_subject()
        if subject is None:
            return line
        if "request_id=" not in line:
            line += f" request_id={subject.request_id}"
        if subject.trace_id and "trace_id=" not in line:
            line += f" trace_id={subject.trace_id}"
        return line


class JSONFormatter(logging.Formatter):
    """Fields of a line are keys beside its own; one of the same name gets a `_` behind it."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = taken_apart(record)
        line: dict[str, Any] = {
            "ts": _moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        subject = current_subject()
        if subject is not None:
            line["request_id"] = subject.request_id
            if subject.trace_id:
                line["trace_id"] = subject.trace_id
        line |= {f"{name}_" if name in _OWN else name: value for name, value in fields.items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def _one_line(text: str) -> str:
    """What is logged may be a client's words: no line breaks and no control characters, which make up other lines."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def formatter(name: str) -> logging.Formatter:
    """`name`: text or json, as `logging.format`."""
    return JSONFormatter() if name == "json" else TextFormatter()


def _moment(created_s: float) -> str:
    """ISO 8601, UTC, with microseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s))
    return f"{whole}.{int(created_s % 1 * 1e6):06d}Z"
