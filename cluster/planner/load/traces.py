"""Parses request traces: Azure's CSV and Mooncake's JSONL.

Every fault is a ConfigError with its line. `cluster.load.trace_file` opens the files.
"""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, pairwise

import numpy as np

from baton.errors import ConfigError

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_KEYS = ("timestamp", "input_length", "output_length", "hash_ids")
HASHED_TOKENS = 512  # of a block that Mooncake's hash ids name


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """`hash_ids` name the prompt's blocks of 512 tokens, equal ids for equal prefixes; empty in Azure's traces."""

    line: int
    time_s: float
    input_len: int
    output_len: int
    hash_ids: tuple[int, ...] = ()


def parse_trace(source: str, suffix: str, lines: Iterable[str], *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` rows, times from 0 and never falling.

    Args:
        source: The trace's name in errors.
        suffix: .csv for Azure's, .jsonl for Mooncake's.
    Raises:
        ConfigError: The trace has a fault, by line, field and value.
    """
    readers = {".csv": _azure, ".jsonl": _mooncake}
    if suffix not in readers:
        raise ConfigError(f"{source}: unknown kind {suffix!r}; give Azure's .csv or Mooncake's .jsonl, unpacked")
    rows = list(islice(readers[suffix](source, lines), limit))
    if not rows:
        raise ConfigError(f"{source} holds no requests; give a trace with a row for each")
    for before, row in pairwise(rows):
        if row.time_s < before.time_s:
            early_s = before.time_s - row.time_s
            raise ConfigError(
                f"{source}:{row.line}: the time is {early_s:g} s before the line above; sort the trace by time"
            )
    return [replace(row, time_s=row.time_s - rows[0].time_s) for row in rows]


def _azure(source: str, lines: Iterable[str]) -> Iterator[TraceRow]:
    reader = csv.DictReader(lines)
    try:
        if not reader.fieldnames:
            raise ConfigError(f"{source} is empty; give a trace with the columns {','.join(AZURE_COLUMNS)}")
        missing = [name for name in AZURE_COLUMNS if name not in reader.fieldnames]
        if missing:
            raise ConfigError(f"{source} lacks the column {missing[0]}; it needs {','.join(AZURE_COLUMNS)}")
        for cells in reader:
            if None in cells:
                raise ConfigError(
                    f"{source}:{reader.line_num}: more cells than the {len(reader.fieldnames)} columns; "
                    "write numbers without separators"
                )
            yield TraceRow(
                line=reader.line_num,
                time_s=_date_s(source, reader.line_num, cells["TIMESTAMP"]),
                input_len=_length(source, reader.line_num, "ContextTokens", cells["ContextTokens"]),
                output_len=_length(source, reader.line_num, "GeneratedTokens", cells["GeneratedTokens"]),
            )
    except csv.Error as error:
        raise ConfigError(f"{source}:{reader.line_num} is not CSV: {error}") from error


def _date_s(source: str, line: int, value: str | None) -> float:
    try:
        date = datetime.fromisoformat(value or "")
    except ValueError as error:
        raise ConfigError(
            f"{source}:{line}: TIMESTAMP {value!r} is not a date and time; write 2023-11-16 18:15:46.68"
        ) from error
    # UTC where no zone is named: a local clock's summer time would turn hours back.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _mooncake(source: str, lines: Iterable[str]) -> Iterator[TraceRow]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}:{line} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{source}:{line} is no object; each line needs {', '.join(MOONCAKE_KEYS)}")
        missing = [key for key in MOONCAKE_KEYS if key not in record]
        if missing:
            raise ConfigError(f"{source}:{line} lacks {missing[0]!r}; each line needs {', '.join(MOONCAKE_KEYS)}")
        input_len = _length(source, line, "input_length", record["input_length"])
        yield TraceRow(
            line=line,
            time_s=_milliseconds(source, line, record["timestamp"]) / 1000,
            input_len=input_len,
            output_len=_length(source, line, "output_length", record["output_length"]),
            hash_ids=_hash_ids(source, line, record["hash_ids"], input_len),
        )


def _milliseconds(source: str, line: int, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{source}:{line}: timestamp {value!r} must be milliseconds, 0 or more")
    return value


def _length(source: str, line: int, name: str, value: object) -> int:
    try:
        length = int(str(value))
    except ValueError:
        length = 0
    if length < 1:
        raise ConfigError(f"{source}:{line}: {name} {value!r} must be a whole number of tokens, 1 or more")
    return length


def _hash_ids(source: str, line: int, value: object, input_len: int) -> tuple[int, ...]:
    needed = -(-input_len // HASHED_TOKENS)
    ids = value if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value) else None
    if ids is None or len(ids) != needed:
        given = f"{str(value)[:60]} is given" if ids is None else f"{len(ids)} are given"
        raise ConfigError(
            f"{source}:{line}: hash_ids must be {needed} whole numbers, one per {HASHED_TOKENS} of {input_len} tokens; "
            f"{given}"
        )
    return tuple(ids)


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
