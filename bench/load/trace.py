"""Reads request traces: Azure's CSV and Mooncake's JSONL.

Every fault of a file is a ConfigError with its line. Times come out in seconds from the first request.
"""

import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from baton.errors import ConfigError
from bench.load.requests import SEGMENT_TOKENS

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_KEYS = ("timestamp", "input_length", "output_length", "hash_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """`hash_ids` name the prompt's blocks of 512 tokens, equal ids for equal prefixes; empty in Azure's traces."""

    line: int
    time_s: float
    input_len: int
    output_len: int
    hash_ids: tuple[int, ...] = ()


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` rows, times from 0 and never falling."""
    readers = {".csv": _azure, ".jsonl": _mooncake}
    if path.suffix not in readers:
        raise ConfigError(f"--trace {path}: unknown kind {path.suffix!r}; give Azure's .csv or Mooncake's .jsonl")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(islice(readers[path.suffix](path, lines), limit))
    except OSError as error:
        raise ConfigError(f"--trace {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--trace {path} is not UTF-8 text: {error}") from error
    if not rows:
        raise ConfigError(f"--trace {path} holds no requests")
    for before, row in pairwise(rows):
        if row.time_s < before.time_s:
            raise ConfigError(f"{path}:{row.line}: the time is before the line above; sort the trace by time")
    return [replace(row, time_s=row.time_s - rows[0].time_s) for row in rows]


def _azure(path: Path, lines: Any) -> Iterator[TraceRow]:
    reader = csv.DictReader(lines)
    missing = [name for name in AZURE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"--trace {path} lacks the column {missing[0]}; it needs {','.join(AZURE_COLUMNS)}")
    for cells in reader:
        line = reader.line_num
        try:
            time_s = datetime.fromisoformat(cells["TIMESTAMP"]).timestamp()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}:{line}: TIMESTAMP {cells['TIMESTAMP']!r} is not a date and time") from error
        yield TraceRow(
            line=line,
            time_s=time_s,
            input_len=_length(path, line, "ContextTokens", cells["ContextTokens"]),
            output_len=_length(path, line, "GeneratedTokens", cells["GeneratedTokens"]),
        )


def _mooncake(path: Path, lines: Any) -> Iterator[TraceRow]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{line} is not JSON: {error}") from error
        missing = [key for key in MOONCAKE_KEYS if not isinstance(record, dict) or key not in record]
        if missing:
            raise ConfigError(f"{path}:{line} lacks {missing[0]!r}; each line needs {', '.join(MOONCAKE_KEYS)}")
        time_ms = record["timestamp"]
        if not isinstance(time_ms, int | float) or not time_ms >= 0:
            raise ConfigError(f"{path}:{line}: timestamp {time_ms!r} must be milliseconds, 0 or more")
        yield TraceRow(
            line=line,
            time_s=time_ms / 1000,
            input_len=_length(path, line, "input_length", record["input_length"]),
            output_len=_length(path, line, "output_length", record["output_length"]),
            hash_ids=_hash_ids(path, line, record["hash_ids"], record["input_length"]),
        )


def _length(path: Path, line: int, name: str, value: object) -> int:
    try:
        length = int(str(value))
    except ValueError:
        length = 0
    if length < 1:
        raise ConfigError(f"{path}:{line}: {name} {value!r} must be a whole number of tokens, 1 or more")
    return length


def _hash_ids(path: Path, line: int, value: object, input_len: int) -> tuple[int, ...]:
    needed = -(-int(input_len) // SEGMENT_TOKENS)
    if (
        not isinstance(value, list)
        or len(value) != needed
        or not all(isinstance(item, int) and item >= 0 for item in value)
    ):
        raise ConfigError(
            f"{path}:{line}: hash_ids must be {needed} whole numbers, one per {SEGMENT_TOKENS} of {input_len} tokens"
        )
    return tuple(value)


def spread_ticks(rows: list[TraceRow], rng: np.random.Generator) -> tuple[list[TraceRow], float]:
    """Rows whose times were rounded to ticks, spread over their ticks at random, and the tick in seconds.

    A trace counts as rounded when it has at most half as many times as rows; others come back unchanged, with tick 0.
    """
    ticks_s = sorted({row.time_s for row in rows})
    if len(ticks_s) < 2 or len(ticks_s) > len(rows) / 2:
        return rows, 0.0
    tick_s = statistics.median(after - before for before, after in pairwise(ticks_s))
    room_s = {
        before: min(tick_s, after - before)
        for before, after in zip(ticks_s, [*ticks_s[1:], ticks_s[-1] + tick_s], strict=True)
    }
    times_s = sorted(row.time_s + rng.uniform(0, room_s[row.time_s]) for row in rows)
    return [replace(row, time_s=time_s) for row, time_s in zip(rows, times_s, strict=True)], tick_s
