"""Quantized checkpoints on a CUDA device: what is kept at 8 bits, what is dequantized, and how both get there."""

import random
from pathlib import Path

import pytest
import torch

from tests.quantized import FORMS, checkpoint
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from workers.model.cuda.launching import has_triton
from workers.model.cuda.scaled import GPUScaledLinear
from workers.model.loader import load_model
from workers.model.quantized.scaled_linear import ScaledLinear
from workers.model.runner import TorchRunner
from workers.model.weight_lanes import HALF_BYTES, WeightLanes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def _exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("form", ["fp8, blocks", "compressed-tensors, int8", "awq", "gptq, groups by order"])
def test_tokens_are_those_of_the_dequantized_weights(form: str, tmp_path: Path) -> None:
    quantized, plain = checkpoint("qwen3", FORMS[form], tmp_path)
    given = prompts_of(random.Random(1), (5, 17, 40), 160)
    driver = Driver(TorchRunner(make_spec(quantized, device="cuda")), seed=1)
    for prompt in given:
        driver.add(prompt, 10)
    driver.finish()
    assert count_differences(driver.streams, generate(plain, given, 10, "cuda"), tolerance=1e-3) == 0


def test_fp8_stays_fp8_where_the_gpu_has_it(tmp_path: Path) -> None:
    if not has_triton() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no FP8, or no Triton")
    quantized, _ = checkpoint("qwen3", FORMS["fp8, blocks"], tmp_path)
    loaded = load_model(make_spec(quantized, device="cuda"))
    assert sum(isinstance(module, ScaledLinear) for module in loaded.model.modules()) == 3 * 7
    assert loaded.fingerprint == load_model(make_spec(quantized)).fingerprint
    runner = TorchRunner(make_spec(quantized, device="cuda"), loaded=loaded)
    assert sum(isinstance(module, GPUScaledLinear) for module in runner.model.modules()) == 3 * 4


@pytest.mark.parametrize("size", [0, 1, HALF_BYTES // 4, HALF_BYTES + 4096, 3 * HALF_BYTES - 7])
def test_every_byte_arrives(size: int) -> None:
    lanes = WeightLanes(torch.device("cuda"))
    part = torch.randint(0, 255, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert lanes.bring(part).cpu().equal(part)
    target = torch.zeros(size, dtype=torch.uint8, device="cuda")
    assert lanes.placed(target, part).cpu().equal(part)
