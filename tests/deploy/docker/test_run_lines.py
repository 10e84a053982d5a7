"""The images' RUN lines that need no engine, tried in a clean folder: the wheel, and the control plane's packages.

Not tried here: those of apt-get, which need root and Debian; those of torch, which bring gigabytes.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.docker.dockerfile import FOLDER, ROOT, stages

PROGRAM = """
import importlib.util
assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("transformers") is None
import cluster.cli, cluster.fleet.controller, cluster.ingress.app, cluster.ingress.haproxy
print("ready")
"""


class Clean:
    """The folders of a build below `root`, in place of the container's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "src"
        shutil.copy(FOLDER / "constraints.txt", root)

    def copy(self, stage: str) -> None:
        self.source.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for text in stages()[stage].of("COPY"):
            *sources, _ = text.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, self.source / source, ignore=ignored)
                else:
                    shutil.copy(ROOT / source, self.source)

    def run(self, stage: str) -> None:
        for line in stages()[stage].of("RUN"):
            command = line.replace("python -m venv", f"{sys.executable} -m venv")
            for path in ("/opt/baton", "/wheels", "/constraints.txt"):
                command = command.replace(path, f"{self.root}{path}")
            command = command.replace("pip wheel", f"{sys.executable} -m pip wheel")
            done = subprocess.run(
                ["/bin/bash", "-o", "pipefail", "-c", command],
                cwd=self.source,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            if done.returncode and "No matching distribution" in done.stderr:
                pytest.skip(f"pip has no index here: {done.stderr[-300:]}")
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_control_planes_packages_are_made_in_a_clean_folder_and_import_without_torch(tmp_path: Path) -> None:
    clean = Clean(tmp_path)
    clean.copy("wheel")
    clean.run("wheel")
    clean.run("control-packages")
    python = tmp_path / "opt/baton/bin/python"
    told = subprocess.run(
        [str(python), "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert told.stdout.strip() == "ready", told.stderr
    helped = subprocess.run(
        [str(tmp_path / "opt/baton/bin/baton"), "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert helped.returncode == 0, helped.stderr
