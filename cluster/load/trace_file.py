"""Opens request traces; `cluster.planner.load.traces` parses them."""

from pathlib import Path

from baton.errors import ConfigError
from cluster.planner.load.traces import TraceRow, parse_trace

GZIP = b"\x1f\x8b"  # how such a file begins: RFC 1952


def read_trace(path: Path, *, limit: int | None = None, flag: str = "--trace") -> list[TraceRow]:
    """The first `limit` rows of Azure's .csv or Mooncake's .jsonl, times from 0 and never falling.

    Args:
        flag: Names the file in errors.
    """
    source = f"{flag} {path}"
    if path.suffix not in (".csv", ".jsonl"):
        return parse_trace(source, path.suffix, ())  # refuses it by name, before it is opened
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return parse_trace(source, path.suffix, lines, limit=limit)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = "a gzip file" if path.read_bytes()[:2] == GZIP else f"not UTF-8 text ({error.reason})"
        raise ConfigError(f"{source} is {what}; unpack or convert it, and give the text") from error
