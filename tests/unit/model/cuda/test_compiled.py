"""Kernels can be compiled for GPUs that are not there, and spill hardly a register to memory."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed (make kernels)")


@pytest.mark.parametrize(
    ("capability", "only"),
    [
        (90, "decode, heads of 128"),
        (90, "rotate_and_write"),
        *(pytest.param(each, "", marks=pytest.mark.slow) for each in (80, 89, 90, 100)),
    ],
)
def test_for_a_gpu(capability: int, only: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernels", "--capability", str(capability), "--only", only]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
