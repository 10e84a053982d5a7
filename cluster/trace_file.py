"""Opens request traces; `cluster.planner.traces` parses them."""

from pathlib import Path

from baton.errors import ConfigError
from cluster.planner.traces import TraceRow, parse_trace

GZIP = b"\x1f\x8b"  # how such a file begins: RFC 1952


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` rows of Azure's .csv or Mooncake's .jsonl, times from 0 and never falling."""
    if path.suffix not in (".csv", ".jsonl"):
        return parse_trace(str(path), path.suffix, ())  # refuses it by name, before it is opened
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return parse_trace(str(path), path.suffix, lines, limit=limit)
    except OSError as error:
        raise ConfigError(f"--trace {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = "a gzip file" if path.read_bytes()[:2] == GZIP else f"not UTF-8 text ({error.reason})"
        raise ConfigError(f"--trace {path} is {what}; unpack or convert it, and give the text") from error
