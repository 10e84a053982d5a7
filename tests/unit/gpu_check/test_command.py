"""The command: what it says and how it ends when parts pass, fail, hang, crash, or cannot run."""

import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu_check import __main__ as command
from bench.gpu_check import wheels
from bench.gpu_check.parts import PARTS, Part
from bench.gpu_check.report import Report

MACHINE = {"gpus": [], "driver_says": "", "torch": "2", "transformers": "5"}
PACKAGE = "tests.unit.gpu_check"


def run_parts(folder: Path, *names: str, part_limit_s: float = 30.0, limit_s: float = 60.0) -> list[dict[str, Any]]:
    """The lines of results.jsonl but the first."""
    report = Report(folder, MACHINE, "cpu")
    parts = [Part(name=f"{PACKAGE}.{name}", limit_s=part_limit_s, shows="") for name in names]
    command.run_all(parts, report, device="cpu", limit_s=limit_s, env=wheels.environment(command.ROOT, None))
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert report.num_failed == sum(line.get("passed") is False for line in lines)
    return lines[1:]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def test_every_finding_is_written_and_a_failed_item_fails_its_part(tmp_path: Path) -> None:
    lines = run_parts(tmp_path, "mixed_part")
    assert [(line["name"], line["passed"]) for line in lines] == [
        ("good", True),
        ("bad", False),
        ("raises", False),
        ("absent", None),
        ("", False),
    ]
    assert lines[0]["figures"] == {"seconds": 1.5}
    assert lines[2]["text"] == "ValueError: the first line"
    assert lines[3]["text"] == "skipped: no such library"
    table = (tmp_path / "results.md").read_text()
    assert "| bad | not / as it should be | FAILED |" in table
    assert "what libraries print" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_all_it_started_and_the_next_one_runs(tmp_path: Path) -> None:
    lines = run_parts(tmp_path, "hanging_part", "mixed_part", part_limit_s=8.0)
    assert lines[0]["text"] == "began"
    assert lines[1]["text"] == "ended after its limit of 8 s (1 findings before)"
    assert lines[1]["passed"] is False
    assert lines[2]["name"] == "good"
    pid, ends_s = int(lines[0]["figures"]["pid"]), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_part_that_crashes_keeps_its_findings_and_says_the_last_words(tmp_path: Path) -> None:
    lines = run_parts(tmp_path, "crashing_part")
    assert [line["passed"] for line in lines] == [True, False]
    assert lines[1]["text"].startswith("exit status 3: illegal memory access; see ")


def test_a_part_that_cannot_run_is_skipped_by_name_and_fails_nothing(tmp_path: Path) -> None:
    (line,) = run_parts(tmp_path, "absent_part")
    assert line["part"] == f"{PACKAGE}.absent_part"
    assert line["passed"] is None
    assert line["text"].startswith("skipped: no_such_package_anywhere cannot be imported: No module named")


def test_what_the_total_limit_leaves_no_time_for_is_named(tmp_path: Path) -> None:
    (line,) = run_parts(tmp_path, "mixed_part", limit_s=5.0)
    assert line["passed"] is None
    assert line["text"] == "skipped: 5 s of --limit-s 5 are left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_part_is_skipped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    for part, line in zip(PARTS, printed[1:], strict=False):
        assert line.startswith(f"{part.name} ")
        assert "skipped: no GPU: torch" in line
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1 + len(PARTS)


def test_the_list_names_every_part_and_each_has_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [part.name for part in PARTS]
    for part in PARTS:
        assert (command.ROOT / f"{part.module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "token"], "invalid choice: 'token' (choose from"),
        (["--limit-s", "5"], "--limit-s 5: no part is begun with less than 20 s; give more"),
        (["--limit-s", "nan"], "--limit-s nan: no part is begun"),
        (["--wheels", "no/such/folder"], "--wheels no/such/folder: holds no *.whl; give the folder that holds them"),
    ],
)
def test_an_option_that_cannot_be_followed_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert told in capsys.readouterr().err


def test_wheels_are_unpacked_before_what_is_installed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made_up-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up/__init__.py", "")
    wheels.unpack(tmp_path, tmp_path / "site")
    assert (tmp_path / "site" / "made_up" / "__init__.py").is_file()
    env = wheels.environment(tmp_path, tmp_path / "site")
    assert env["PYTHONPATH"].split(os.pathsep)[:2] == [str(tmp_path), str(tmp_path / "site")]
