"""The tests in tests/gpu, by pytest."""

import subprocess
import sys

from bench.gpu_check.check import Check, require

# The tests' own conftest starts Ray for others; these need none of it.
COMMAND = (sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/gpu")


def run(check: Check) -> None:
    require("pytest")
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, file=sys.stderr)
    lines = done.stdout.strip().splitlines()
    check.judge("tests/gpu", done.returncode == 0, lines[-1].strip("= ") if lines else f"exit {done.returncode}")
