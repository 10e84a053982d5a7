"""What the running task is about, for the lines that it logs."""

from contextvars import ContextVar
from typing import NamedTuple


class Subject(NamedTuple):
    """`trace_id`: empty: it is part of no trace."""

    request_id: str
    trace_id: str = ""


_SUBJECT: ContextVar[Subject | None] = ContextVar("subject", default=None)


def set_subject(subject: Subject | None) -> None:
    """Of this task, and of those that it starts from now on."""
    _SUBJECT.set(subject)


def current_subject() -> Subject | None:
    return _SUBJECT.get()
