"""Runs `node_client.cjs`, a client made from the proto alone, against a server; skips where Node.js cannot be had.

Its packages are fetched once, by name and version, into a folder of Baton's cache.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from workers.model.cache_folder import made_cache_folder

PACKAGES = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")
SCRIPT = Path(__file__).with_suffix(".cjs")
PROTO = Path(__file__).parents[1] / "proto"


def seen_by_node(target: str) -> dict[str, Any]:
    """What the script saw at `target`, host:port."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        ["node", str(SCRIPT), str(PROTO), target],
        env={**os.environ, "NODE_PATH": str(_packages() / "node_modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _packages() -> Path:
    folder = made_cache_folder("node_client")
    done = folder / "of"
    if done.is_file() and done.read_text() == " ".join(PACKAGES):
        return folder
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    fetched = subprocess.run(
        [*command, "--fetch-retries=1", "--fetch-timeout=20000"], capture_output=True, text=True, timeout=170
    )
    if fetched.returncode:
        pytest.skip(f"npm does not give {' and '.join(PACKAGES)}: {fetched.stderr.strip()[-300:]}")
    done.write_text(" ".join(PACKAGES))
    return folder
