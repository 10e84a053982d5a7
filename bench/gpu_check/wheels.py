"""Packages carried beside the tree: wheels are zip files, unpacked here without pip or network."""

import os
import zipfile
from pathlib import Path


def unpack(folder: Path, target: Path) -> None:
    """Unpacks every *.whl of `folder` into `target`."""
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def environment(root: Path, packages: Path | None) -> dict[str, str]:
    """Of a child process: this checkout, then `packages`, before all that is installed."""
    paths = [str(root), *([str(packages)] if packages is not None else []), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
