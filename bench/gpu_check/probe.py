"""What this machine has, as one JSON line: `python -m bench.gpu_check.probe`. Ends well where torch is missing."""

import importlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "flashinfer-python",
    "flash-linear-attention",
    "vllm",
    "triton",
    "grpcio",
    "protobuf",
    "pytest",
)


def probe() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "gpus": [], "driver_says": ""}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        found["driver_says"] = f"torch cannot be imported: {error}"
        return found
    if not torch.cuda.is_available():
        found["driver_says"] = f"torch {torch.__version__} sees no CUDA device"
        return found
    found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
