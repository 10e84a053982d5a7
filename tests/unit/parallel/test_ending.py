"""A process that ends of its own accord says why, if anybody waits for it, and ends in any case."""

import subprocess
import sys
import textwrap

PROGRAM = """
import asyncio, threading, time
from baton.errors import BatonError, UnavailableError
from workers.ending import Ending

async def stuck(ending: Ending) -> None:
    waiting = asyncio.ensure_future(ending.wait())
    await asyncio.sleep(0)
    time.sleep(20)

async def main() -> None:
    ending = Ending()
    error = UnavailableError("rank 1 of the gang gave no sign of life for 4.0 s")
    threading.Timer(0.3, lambda: ending.end(error)).start()
    try:
        await {waiting}
    except BatonError as told:
        print(told.message, flush=True)
    await asyncio.sleep(20)

asyncio.run(main())
"""


def ended(waiting: str) -> tuple[int, str]:
    """Exit status, and what it printed."""
    program = textwrap.dedent(PROGRAM).replace("{waiting}", waiting)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout.strip()


def test_who_waits_is_told_why() -> None:
    assert ended("ending.wait()") == (1, "rank 1 of the gang gave no sign of life for 4.0 s")


def test_it_ends_where_nobody_waits_and_where_its_loop_is_stuck() -> None:
    assert ended("asyncio.sleep(20)") == (1, "")
    assert ended("stuck(ending)") == (1, "")
