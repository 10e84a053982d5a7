"""Opens request traces; `cluster.planner.traces` parses them."""

from pathlib import Path

from baton.errors import ConfigError
from cluster.planner.traces import TraceRow, parse_trace


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
        raise ConfigError(f"--trace {path} is not UTF-8 text: {error}") from error
