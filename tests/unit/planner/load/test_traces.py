"""Readers of request traces: what they give, and each fault of a file by its line."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from baton.errors import ConfigError
from cluster.load.trace_file import read_trace
from cluster.planner.load.traces import TraceRow, spread_ticks

DATA = Path(os.environ.get("BATON_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _mooncake(time_ms: float, input_len: int, output_len: int, hash_ids: list[int]) -> str:
    row = {"timestamp": time_ms, "input_length": input_len, "output_length": output_len, "hash_ids": hash_ids}
    return json.dumps(row) + "\n"


def test_azure_times_count_from_the_first_request(tmp_path: Path) -> None:
    path = _write(
        tmp_path, "t.csv", AZURE + "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\r\n"
    )
    rows = read_trace(path)
    assert [(row.input_len, row.output_len) for row in rows] == [(374, 44), (396, 109)]
    assert rows[0].time_s == 0.0
    assert rows[1].time_s == pytest.approx(4.314579, abs=1e-5)


def test_azure_times_with_a_zone_are_read_too(tmp_path: Path) -> None:
    text = AZURE + "2024-05-10 00:00:00.009930+00:00,10,1\n2024-05-10 00:00:01.009930+00:00,10,1\n"
    assert read_trace(_write(tmp_path, "t.csv", text))[1].time_s == pytest.approx(1.0)


def test_mooncake_rows_keep_their_hash_ids(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.jsonl", _mooncake(1000, 600, 5, [0, 1]) + "\n" + _mooncake(4000, 512, 6, [0]))
    assert read_trace(path) == [
        TraceRow(line=1, time_s=0.0, input_len=600, output_len=5, hash_ids=(0, 1)),
        TraceRow(line=3, time_s=3.0, input_len=512, output_len=6, hash_ids=(0,)),
    ]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.jsonl", _mooncake(0, 5, 5, [0]) * 3 + "broken\n")
    assert len(read_trace(path, limit=3)) == 3


GOOD = _mooncake(0, 5, 5, [0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "x", "unknown kind '.txt'"),
        ("t.csv", "", "is empty; give a trace with the columns TIMESTAMP"),
        ("t.csv", "TIMESTAMP,ContextTokens\n", "lacks the column GeneratedTokens"),
        ("t.csv", AZURE, "holds no requests"),
        ("t.csv", AZURE + "yesterday,1,1\n", r"t\.csv:2: TIMESTAMP 'yesterday'"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,0,1\n", r"t\.csv:2: ContextTokens '0' must be"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,1,-3\n", "GeneratedTokens '-3'"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,1\n", "GeneratedTokens None"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n", r"t\.csv:3: the time is 1 s before"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,1,200,1\n", r"t\.csv:2: more cells than the 3 columns"),
        ("t.jsonl", "", "holds no requests"),
        ("t.jsonl", GOOD + "{", r"t\.jsonl:2 is not JSON"),
        ("t.jsonl", "[1]\n", r"t\.jsonl:1 is no object; each line needs timestamp"),
        ("t.jsonl", "null\n", r"t\.jsonl:1 is no object"),
        ("t.jsonl", "{}\n", "lacks 'timestamp'"),
        ("t.jsonl", '{"timestamp": 0, "input_length": 3}\n', "lacks 'output_length'"),
        ("t.csv", AZURE + "2023-11-16 18:15:46,1,\0\n" + "x" * 200_000, r"t\.csv:\d"),
        ("t.jsonl", _mooncake(-1, 5, 5, [0]), "timestamp -1 must be"),
        ("t.jsonl", _mooncake(float("inf"), 5, 5, [0]), "timestamp inf must be"),
        ("t.jsonl", _mooncake(float("nan"), 5, 5, [0]), "timestamp nan must be"),
        ("t.jsonl", "[" * 100_000, "t.jsonl:1 is not JSON"),
        ("t.jsonl", _mooncake(0, 0, 5, []), "input_length 0 must be"),
        ("t.jsonl", _mooncake(0, 5, 0, [0]), "output_length 0 must be"),
        (
            "t.jsonl",
            _mooncake(0, 600, 5, [0]),
            "hash_ids must be 2 whole numbers, one per 512 of 600 tokens; 1 are given",
        ),
        ("t.jsonl", _mooncake(0, 5, 5, [-1]), "hash_ids must be 1 whole numbers.*; \\[-1\\] is given"),
        ("t.jsonl", _mooncake(9, 5, 5, [0]) + GOOD, r"t\.jsonl:2: the time is 0.009 s before"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_trace(_write(tmp_path, name, text))


def test_a_missing_file_and_a_binary_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(invalid start byte\); unpack or convert it"):
        read_trace(tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_packed_trace_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(AZURE.encode()))
    with pytest.raises(ConfigError, match="is a gzip file; unpack"):
        read_trace(tmp_path / name)
    with pytest.raises(ConfigError, match=r"unknown kind '\.gz'; give Azure's \.csv or Mooncake's \.jsonl, unpacked"):
        read_trace(tmp_path / f"{name}.gz")


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    row = AZURE + "2023-11-16 18:15:46,7,3\r\n"
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + row.encode())
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert [row.input_len for row in read_trace(tmp_path / "t.csv")] == [7]
    assert [row.input_len for row in read_trace(tmp_path / "t.jsonl")] == [5]


def _rows(*times_s: float) -> list[TraceRow]:
    return [TraceRow(line=line, time_s=time_s, input_len=1, output_len=1) for line, time_s in enumerate(times_s)]


def test_rounded_times_are_spread_over_their_tick_in_order() -> None:
    rows, tick_s = spread_ticks(_rows(0, 0, 0, 3, 3, 3, 30, 30), np.random.default_rng(1))
    assert tick_s == pytest.approx(15.0)
    rows, tick_s = spread_ticks(_rows(0, 0, 0, 3, 3, 3, 6, 6, 30, 30), np.random.default_rng(1))
    assert tick_s == 3.0
    times_s = [row.time_s for row in rows]
    assert times_s == sorted(times_s)
    assert len(set(times_s)) == 10
    assert [int(time_s // 3) for time_s in times_s] == [0, 0, 0, 1, 1, 1, 2, 2, 10, 10]


def test_exact_times_are_left_alone() -> None:
    rows = _rows(0, 0, 0.04, 0.277, 0.471)
    assert spread_ticks(rows, np.random.default_rng(1)) == (rows, 0.0)


@pytest.mark.parametrize(
    ("name", "count", "tick_s"),
    [
        ("azure_llm_2023/AzureLLMInferenceTrace_conv.csv", 19_366, 0.0),
        ("mooncake_traces/conversation_trace.jsonl", 12_031, 3.0),
        ("mooncake_traces/synthetic_trace.jsonl", 3_993, 0.0),
    ],
)
def test_published_traces_are_read_whole(name: str, count: int, tick_s: float) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not below {DATA}")
    rows = read_trace(path)
    assert count - 1 <= len(rows) <= count  # the last line may lack its newline
    spread, found_tick_s = spread_ticks(rows, np.random.default_rng(0))
    assert found_tick_s == tick_s
    assert len(spread) == len(rows)
    times_s = [row.time_s for row in spread]
    assert times_s == sorted(times_s)
