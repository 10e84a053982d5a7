"""Whole requests by the kernels of a GPU, interpreted: tokens and logprobs are those of transformers' generate."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models import tiny
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from tests.unit.model.scaled import scaled
from workers.model.contract import Chunk
from workers.model.cuda.fused import GPULayer, fuse_layers
from workers.model.cuda.kinds import KindsNoted
from workers.model.cuda.ragged import RaggedAttention
from workers.model.runner import TorchRunner
from workers.spec import KVSpec

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
FAMILIES = {"llama": True, "qwen3": True, "gemma2": False, "gpt_oss": False}  # whether layers are fused
PARAMETERS = [pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES if family != "gemma2"]


@pytest.mark.parametrize("family", ["gemma2", *PARAMETERS])
def test_tokens_and_logprobs_are_those_of_generate(family: str) -> None:
    torch.set_num_threads(1)
    runner = TorchRunner(make_spec(tiny(family)), native=False)
    assert bool(fuse_layers(runner.model, torch.float32)) == FAMILIES[family]
    assert any(type(module) is GPULayer for module in runner.model.modules()) == FAMILIES[family]
    runner.attention = RaggedAttention(runner.device)
    driver = Driver(runner, seed=1)
    given = prompts_of(random.Random(5), (1, 19, 40), 160)
    for prompt in given:
        driver.add(prompt, 6)
    driver.finish()
    assert count_differences(driver.streams, generate(tiny(family), given, 6), tolerance=1e-3) == 0


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_tokens_in_fp8_are_those_of_the_portable_path(tmp_path: Path, family: str) -> None:
    """Fused layers round keys and values themselves; of others torch does."""
    torch.set_num_threads(1)
    spec = replace(make_spec(scaled(tiny(family), tmp_path)), kv=KVSpec(dtype="fp8"))
    found = []
    for is_fused in (False, True):
        runner = TorchRunner(spec, native=False)
        if is_fused:
            assert bool(fuse_layers(runner.model, torch.float32)) == FAMILIES[family]
            runner.attention = RaggedAttention(runner.device)
        driver = Driver(runner, seed=1)
        for prompt in prompts_of(random.Random(5), (1, 19, 40), 160):
            driver.add(prompt, 6)
        driver.finish()
        found.append(driver.streams)
    for portable, fused in zip(*found, strict=True):
        assert portable.tokens == fused.tokens
        assert portable.logprobs == pytest.approx(fused.logprobs, abs=1e-3)


@pytest.mark.parametrize(("family", "num_kinds"), [("llama", 1), ("gemma2", 2), ("qwen3_next", 1)])
def test_the_kinds_of_layers_are_what_they_ask_of_attention(family: str, num_kinds: int) -> None:
    runner, noted = TorchRunner(make_spec(tiny(family)), native=False), KindsNoted()
    runner.attention = noted
    slot = 0 if runner.num_states else None
    with torch.inference_mode():
        runner.compute([Chunk(token_ids=[0], start=0, block_ids=[0], num_sequence_tokens=1, state_id=slot)], [])
    kinds = noted.commonest_first()
    assert len(kinds) == num_kinds
    assert {kind.scoring.window is None for kind in kinds} == ({True, False} if num_kinds == 2 else {True})
    assert all(kind.num_heads % kind.k_cache.shape[2] == 0 for kind in kinds)
