"""Runs the parts one after the other, each in its own process: python3 -m bench.gpu_check. Standard library alone."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_check import wheels
from bench.gpu_check.parts import PARTS, Part
from bench.gpu_check.report import Report

ROOT = Path(__file__).resolve().parents[2]
LEAST_S = 20.0  # with less left, no part is begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    findings: int
    failed: int
    seconds: float
    skipped: str = ""
    error: str = ""  # why the process itself did not end well


def run_part(part: Part, report: Report, *, device: str, limit_s: float, env: Mapping[str, str]) -> Outcome:
    """Findings go to `report` as they come; the process and what it started are gone afterwards."""
    began_s = time.monotonic()
    child = _start(part, report.log, device, env)
    is_late = threading.Event()

    def cut_off() -> None:
        is_late.set()
        _end(child)

    timer = threading.Timer(limit_s, cut_off)
    timer.start()
    try:
        findings, skipped = _read(child, part, report)
        child.wait()
    finally:
        timer.cancel()
        _end(child)
    error = ""
    if is_late.is_set():
        error = f"ended after its limit of {limit_s:.0f} s"
    elif child.returncode:
        error = f"exit status {child.returncode}: {_last_line(report.log)}; see {report.log}"
    return Outcome(
        findings=len(findings),
        failed=sum(finding["passed"] is False for finding in findings),
        seconds=time.monotonic() - began_s,
        skipped=skipped,
        error=error,
    )


def _start(part: Part, log: Path, device: str, env: Mapping[str, str]) -> "subprocess.Popen[str]":
    with log.open("a") as file:
        file.write(f"== {part.name}\n")
        file.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_check.child", part.module, device],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            cwd=ROOT,
            env=dict(env),
            start_new_session=True,
        )


def _read(child: "subprocess.Popen[str]", part: Part, report: Report) -> tuple[list[dict[str, Any]], str]:
    findings, skipped = [], ""
    assert child.stdout is not None
    for line in child.stdout:
        said = json.loads(line)
        if "skipped" in said:
            skipped = said["skipped"]
            continue
        findings.append(said)
        report.add(part.name, said)
    return findings, skipped


def _end(child: "subprocess.Popen[str]") -> None:
    """The whole session: a part may have processes of its own, which can outlive it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def probe(env: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gpu_check.probe"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(env), check=False)
    if done.returncode:
        return {"gpus": [], "driver_says": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_all(parts: Sequence[Part], report: Report, *, device: str, limit_s: float, env: Mapping[str, str]) -> None:
    ends_s = time.monotonic() + limit_s
    for part in parts:
        left_s = ends_s - time.monotonic()
        if left_s < LEAST_S:
            report.end(part.name, None, f"skipped: {left_s:.0f} s of --limit-s {limit_s:.0f} are left")
            continue
        outcome = run_part(part, report, device=device, limit_s=min(part.limit_s, left_s), env=env)
        if outcome.error:
            report.end(part.name, False, f"{outcome.error} ({outcome.findings} findings before)")
        elif outcome.skipped:
            report.end(part.name, None, f"skipped: {outcome.skipped}")
        else:
            text = f"{outcome.findings} findings, {outcome.failed} failed, {outcome.seconds:.0f} s"
            report.end(part.name, outcome.failed == 0, text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench.gpu_check", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--only", action="append", choices=names, metavar="PART", help="run this part; may be repeated")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and end")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu-check", help="folder for results and log")
    parser.add_argument("--limit-s", type=float, default=480.0, help="no part runs longer than until then (480)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run with tiny shapes")
    parser.add_argument("--wheels", type=Path, help="folder of *.whl to use beside what is installed")
    options = parser.parse_args(arguments)
    if not options.limit_s >= LEAST_S:
        parser.error(f"--limit-s {options.limit_s:g}: no part is begun with less than {LEAST_S:g} s; give more")
    if options.wheels is not None and not any(options.wheels.glob("*.whl")):
        parser.error(f"--wheels {options.wheels}: holds no *.whl; give the folder that holds them")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.list:
        for part in PARTS:
            print(f"{part.name:18} {part.shows}")
        return 0
    with tempfile.TemporaryDirectory(prefix="baton-gpu-check-") as scratch:
        if options.wheels is not None:
            wheels.unpack(options.wheels, Path(scratch))
        return _run(options, wheels.environment(ROOT, Path(scratch) if options.wheels is not None else None))


def _run(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    machine = probe(env)
    try:
        report = Report(options.out, machine, options.device)
    except OSError as error:
        print(f"--out {options.out}: {error.strerror}; give a folder that can be written", file=sys.stderr)
        return 2
    if options.device == "cuda" and not machine["gpus"]:
        for part in parts:
            report.end(part.name, None, f"skipped: no GPU: {machine['driver_says']}")
    else:
        run_all(parts, report, device=options.device, limit_s=options.limit_s, env=env)
    print(f"{report.num_failed} failed; results and log in {options.out}")
    return 1 if report.num_failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part's process is left behind
    sys.exit(main(sys.argv[1:]))
