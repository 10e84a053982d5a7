"""A part for tests: says one thing, then hangs with a process of its own."""

import subprocess
import sys
import time

from bench.gpu_check.check import Check


def run(check: Check) -> None:
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    check.figure("child", "began", pid=idle.pid)
    time.sleep(60)
