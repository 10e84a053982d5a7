"""The parts' own code on a CPU with tiny shapes: what can be run of it without a GPU is run."""

import importlib
import os
from typing import Any

import pytest
import torch

from bench.gpu_check import handoff
from bench.gpu_check.check import Check, Finding
from bench.gpu_check.shape import QWEN3_8B


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["tokens", "logits", "paths", "kernels", "linear", "speed", "speed_transformers"])
def test_a_part_finds_nothing_wrong_on_a_cpu(name: str) -> None:
    if name == "kernels":
        pytest.importorskip("triton", reason="triton is not installed (make kernels)")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("TRITON_INTERPRET is not 1")
    findings: list[Finding] = []
    part: Any = importlib.import_module(f"bench.gpu_check.{name}")
    part.run(Check(device="cpu", tell=findings.append))
    assert len(findings) > 1
    assert [finding for finding in findings if finding.passed is False] == []
    assert any("skipped" not in finding.text for finding in findings)


def test_kv_is_looked_at_byte_by_byte_in_another_process() -> None:
    findings: list[Finding] = []
    handoff.transfer(Check(device="cpu", tell=findings.append), "shm")
    assert [(finding.name, finding.passed) for finding in findings] == [("shm", True), ("shm, gaps", None)]
    assert findings[1].figures["num_waits"] == 3


def test_the_counted_sizes_are_those_that_qwen_publishes() -> None:
    """8.2 billion parameters, 6.95 billion of them not embeddings (huggingface.co/Qwen/Qwen3-8B)."""
    assert QWEN3_8B.num_weights == pytest.approx(8.19e9, rel=2e-3)
    assert QWEN3_8B.num_matrix_values == pytest.approx(6.95e9, rel=2e-3)
    assert QWEN3_8B.kv_bytes(1) == 147_456
    assert QWEN3_8B.prefill_flops(2048) == pytest.approx(2.97e13, rel=0.02)
