"""Where the log of a process goes: to the stream that Ray, or whoever started it, keeps."""

import logging
import os
from typing import TextIO

from cluster.logs.formatters import formatter
from cluster.logs.queued import QueuedHandler

FORMAT_VARIABLE = "BATON_LOG_FORMAT"  # for processes that are told nothing else


def set_up(log_format: str | None = None, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Of this process, from now on; called again, it takes the other format.

    Args:
        log_format: text or json; None: as FORMAT_VARIABLE says, else text.
        stream: None: stderr.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(log_format or os.environ.get(FORMAT_VARIABLE, "text")))
    _install(handler, level)


def set_up_queued(log_format: str, stream: TextIO, level: int = logging.INFO) -> QueuedHandler:
    """The same for a process whose event loop must not wait for a slow disk; the caller closes what is returned."""
    handler = QueuedHandler(stream)
    handler.setFormatter(formatter(log_format))
    _install(handler, level)
    return handler


def _install(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in [one for one in root.handlers if getattr(one, "is_batons", False)]:
        root.removeHandler(old)
    handler.is_batons = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level)
