"""Kernels are interpreted here; on a machine with a GPU `make gpu-check` compares them."""

import os

import pytest


@pytest.fixture(autouse=True)
def _interpreted() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET is not 1: tensors of the CPU are no kernel's")
