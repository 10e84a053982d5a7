"""KV from one process to another over every transport that a GPU has, looked at byte by byte."""

import pytest
import torch

from bench.gpu_check.check import Check, Finding
from bench.gpu_check.handoff import TRANSPORTS, transfer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("transport", TRANSPORTS["cuda"])
def test_kv_arrives_bit_for_bit_in_another_process(transport: str) -> None:
    if transport == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("nccl needs two GPUs")
    findings: list[Finding] = []
    transfer(Check(device="cuda", tell=findings.append), transport)
    assert [finding.passed for finding in findings] == [True, None], findings
