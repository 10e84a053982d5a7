"""A quantized checkpoint answers with exactly the tokens that its dequantized weights give."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.quantized import FORMS, checkpoint, mxfp4_checkpoint
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from tests.unit.parallel.lone_ranks import LoneRanks
from workers.model.loader import load_model
from workers.model.runner import TorchRunner
from workers.spec import GangSpec


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tokens_are_those_of_the_dequantized_weights(form: object, tmp_path: Path) -> None:
    quantized, plain = checkpoint("qwen3", form, tmp_path)  # type: ignore[arg-type]
    given = prompts_of(random.Random(1), (5, 17), 160)
    driver = Driver(TorchRunner(make_spec(quantized)), seed=1)
    for prompt in given:
        driver.add(prompt, 8)
    driver.finish()
    assert count_differences(driver.streams, generate(plain, given, 8)) == 0


@pytest.mark.parametrize("form", ["fp8, blocks", "awq", "gptq, groups by order"])
def test_experts_that_files_have_one_by_one(form: str, tmp_path: Path) -> None:
    quantized, plain = checkpoint("qwen3_moe", FORMS[form], tmp_path)
    found, wanted = (dict(load_model(make_spec(one)).model.named_parameters()) for one in (quantized, plain))
    assert any("experts" in name for name in found)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_ranks_hold_parts_of_the_dequantized_weights(form: object, tmp_path: Path) -> None:
    quantized, plain = checkpoint("qwen2", form, tmp_path)  # type: ignore[arg-type]
    for rank in range(2):
        specs = [replace(make_spec(one), gang=GangSpec(tensor_parallel=2, rank=rank)) for one in (quantized, plain)]
        found, wanted = (dict(load_model(spec, LoneRanks(rank, 2)).model.named_parameters()) for spec in specs)
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("degree", [1, 2])
def test_experts_of_gpt_oss(degree: int, tmp_path: Path) -> None:
    quantized, plain = mxfp4_checkpoint(tmp_path)
    for rank in range(degree):
        gang, ranks = GangSpec(tensor_parallel=degree, rank=rank), LoneRanks(rank, degree) if degree > 1 else None
        loaded = (load_model(replace(make_spec(one), gang=gang), ranks) for one in (quantized, plain))
        found, wanted = (dict(one.model.named_parameters()) for one in loaded)
        assert sum("experts" in name for name in wanted) == 3 * 4
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)


def test_weights_are_rounded_once_to_the_models_dtype(tmp_path: Path) -> None:
    quantized, plain = checkpoint("llama", FORMS["fp8, blocks"], tmp_path)
    found = load_model(make_spec(quantized, dtype="bfloat16")).model
    wanted = load_model(make_spec(plain, dtype="bfloat16")).model
    for (name, weight), other in zip(found.named_parameters(), wanted.parameters(), strict=True):
        assert weight.dtype == torch.bfloat16
        assert weight.equal(other), name
