"""Weights that stay as they are stored: alone, joined in fused layers, in fingerprints."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from baton.errors import ConfigError
from tests.quantized import FORMS, checkpoint
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from workers.model import loader
from workers.model.cuda.fused import GPULayer, fuse_layers
from workers.model.loader import load_model
from workers.model.quantized.scaled_linear import ScaledLinear
from workers.model.runner import TorchRunner

KEPT = (
    "fp8, blocks",
    "fp8, uneven blocks",
    "fp8, one scale",
    "compressed-tensors, fp8, a scale for each output",
    "compressed-tensors, int8",
)


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU with kernels for them."""
    monkeypatch.setattr(loader, "_keeps", lambda dtype, device, values: True)


@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize("form", KEPT)
def test_tokens_and_fingerprint_are_those_of_the_dequantized_weights(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, plain = checkpoint("qwen3", FORMS[form], tmp_path)
    loaded = load_model(make_spec(quantized))
    kept = [module for module in loaded.model.modules() if isinstance(module, ScaledLinear)]
    assert len(kept) == 3 * 7
    given = prompts_of(random.Random(1), (5, 17), 160)
    driver = Driver(TorchRunner(make_spec(quantized), native=False, loaded=loaded), seed=1)
    for prompt in given:
        driver.add(prompt, 8)
    driver.finish()
    assert count_differences(driver.streams, generate(plain, given, 8)) == 0
    monkeypatch.undo()
    dequantized = load_model(make_spec(quantized))
    assert loaded.fingerprint == dequantized.fingerprint
    assert loaded.linears == dequantized.linears


@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize("form", ["compressed-tensors, int8 with zero points", "awq"])
def test_others_are_dequantized_there_too(form: str, tmp_path: Path) -> None:
    quantized, plain = checkpoint("llama", FORMS[form], tmp_path, num_hidden_layers=1)
    found, wanted = (load_model(make_spec(one)).model for one in (quantized, plain))
    for (name, weight), other in zip(found.named_parameters(), wanted.parameters(), strict=True):
        assert weight.equal(other), name


@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize("form", ["fp8, blocks", "fp8, uneven blocks", "compressed-tensors, int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_fused_layers_join_weights_with_their_scales(form: str, family: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed (make kernels)")
    quantized, plain = checkpoint(family, FORMS[form], tmp_path, num_hidden_layers=2, layer_types=None)
    loaded = load_model(make_spec(quantized))
    assert fuse_layers(loaded.model, torch.float32) == 2
    layers = list(loaded.model.get_submodule("model.layers"))  # type: ignore[arg-type]
    assert {type(layer) for layer in layers} == {GPULayer}
    runner = TorchRunner(make_spec(quantized), native=False, loaded=loaded)
    given = prompts_of(random.Random(2), (4, 9), 160)
    driver = Driver(runner, seed=1)
    for prompt in given:
        driver.add(prompt, 4)
    driver.finish()
    assert count_differences(driver.streams, generate(plain, given, 4)) == 0


@pytest.mark.usefixtures("keeping")
def test_layers_that_are_not_fused_multiply_by_the_kernel_too(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed (make kernels)")
    from workers.model.cuda.scaled import GPUScaledLinear

    quantized, plain = checkpoint("gemma2", FORMS["fp8, blocks"], tmp_path, num_hidden_layers=1, layer_types=None)
    loaded = load_model(make_spec(quantized))
    assert fuse_layers(loaded.model, torch.float32) == 0
    assert sum(isinstance(module, GPUScaledLinear) for module in loaded.model.modules()) == 7
    runner = TorchRunner(make_spec(quantized), native=False, loaded=loaded)
    (prompt,) = prompts_of(random.Random(3), (6,), 160)
    driver = Driver(runner, seed=1)
    driver.add(prompt, 3)
    driver.finish()
    assert count_differences(driver.streams, generate(plain, [prompt], 3)) == 0


@pytest.mark.usefixtures("keeping")
def test_the_memory_that_is_asked_for_is_that_of_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, _ = checkpoint("llama", FORMS["fp8, blocks"], tmp_path)
    config = AutoConfig.from_pretrained(quantized)
    with torch.device("meta"):
        whole: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    in_layers = sum(w.numel() for name, w in whole.named_parameters() if name.endswith("_proj.weight"))
    others = sum(w.numel() for w in whole.parameters()) - in_layers
    needed = in_layers + 4 * others + make_spec(quantized).engine.memory_bytes
    monkeypatch.setattr(loader, "available_bytes", lambda device: needed)
    load_model(make_spec(quantized))
    monkeypatch.setattr(loader, "available_bytes", lambda device: needed - 1)
    with pytest.raises(ConfigError, match=r"lower engine\.memory"):
        load_model(make_spec(quantized))
