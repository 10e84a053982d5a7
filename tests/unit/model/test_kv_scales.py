"""Which factors for FP8 a checkpoint has, and which it cannot mean."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.model.driver import make_spec
from tests.unit.model.scaled import FACTORS, scaled
from workers.model.cuda.fp8_support import Facts, check_fp8
from workers.model.kv_scales import kv_format, read_factors
from workers.model.kv_store import LayerShape
from workers.model.places import PLAIN, Place
from workers.spec import KVSpec

HEADS = dict.fromkeys(range(3), 2)
PREFIX = "model.layers.1.self_attn"
ONE, TWO, THREE = torch.tensor([0.25]), torch.tensor([0.5, 2.0]), torch.ones(3)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({f"{PREFIX}.k_scale": TWO, f"{PREFIX}.v_scale": ONE}, [[0.5, 2.0], [0.25, 0.25]]),
        ({f"{PREFIX}.k_scale": TWO.view(2, 1, 1), f"{PREFIX}.v_scale": ONE[0]}, [[0.5, 2.0], [0.25, 0.25]]),
        ({f"{PREFIX}.k_proj.k_scale": ONE, f"{PREFIX}.v_proj.v_scale": TWO.bfloat16()}, [[0.25, 0.25], [0.5, 2.0]]),
        ({f"{PREFIX}.kv_scale": ONE}, [[0.25, 0.25]] * 2),
        ({f"model.language_model.layers.1.self_attn.{x}_scale": ONE for x in "kv"}, [[0.25, 0.25]] * 2),
    ],
)
def test_factors_are_found_by_the_names_that_tools_give_them(
    tmp_path: Path, names: dict[str, Tensor], wanted: list[list[float]]
) -> None:
    folder = scaled(tiny("llama"), tmp_path, names)
    assert {layer: found.tolist() for layer, found in read_factors(folder, HEADS).items()} == {1: wanted}


@pytest.mark.parametrize("names", [{}, {"mtp.layers.0.self_attn.k_scale": ONE}, {f"{PREFIX}.q_scale": ONE}])
def test_what_is_no_factor_of_keys_or_values_is_none(tmp_path: Path, names: dict[str, Tensor]) -> None:
    assert read_factors(scaled(tiny("llama"), tmp_path, names), HEADS) == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({f"{PREFIX}.k_scale": ONE}, "has model.layers.1.self_attn.k_scale, and none for the layer's other half"),
        ({f"{PREFIX}.kv_scale": THREE}, "has 3 factors for 2 KV heads"),
        ({f"{PREFIX}.kv_scale": -ONE}, "kv_scale is -0.25, which keys cannot be divided by"),
        ({f"{PREFIX}.kv_scale": TWO * torch.inf}, "kv_scale is inf"),
        ({f"{PREFIX}.kv_scale": TWO * 0}, "kv_scale is 0.0"),
        ({"model.layers.7.self_attn.kv_scale": ONE}, "of a layer that attends to nothing"),
    ],
)
def test_factors_that_cannot_be_used_are_refused_by_name(tmp_path: Path, names: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ConfigError, match=r"kv\.dtype: fp8") as caught:
        read_factors(scaled(tiny("llama"), tmp_path, names), HEADS)
    assert words in caught.value.message
    assert "set kv.dtype: auto" in caught.value.message


@pytest.mark.parametrize(
    ("scheme", "algorithm", "words"),
    [
        ({"num_bits": 8, "type": "int"}, None, "8-bit int (kv_cache_scheme)"),
        ({"num_bits": 4, "type": "float"}, None, "4-bit float (kv_cache_scheme)"),
        ({"num_bits": 8, "type": "float", "symmetric": False}, None, "8-bit float, not symmetric"),
        (None, "NVFP4", "NVFP4 (kv_cache_quant_algo)"),
        ({"num_bits": 8, "type": "float", "symmetric": True}, "FP8", ""),
    ],
)
def test_factors_for_another_format_are_refused(
    tmp_path: Path, scheme: dict[str, object] | None, algorithm: str | None, words: str
) -> None:
    names = {f"{PREFIX}.kv_scale": ONE}
    folder = scaled(tiny("llama"), tmp_path, names, quantization_config={"kv_cache_scheme": scheme} if scheme else None)
    told = {"quantization": {"kv_cache_quant_algo": algorithm}}
    (folder / "hf_quant_config.json").write_text(json.dumps(told))
    if not words:
        assert list(read_factors(folder, HEADS)) == [1]
        return
    with pytest.raises(ConfigError) as caught:
        read_factors(folder, HEADS)
    assert words in caught.value.message


def test_a_rank_has_the_factors_of_its_heads_and_its_layouts_tell_of_all(tmp_path: Path) -> None:
    spec = replace(make_spec(scaled(tiny("llama"), tmp_path)), kv=KVSpec(dtype="fp8"))
    shapes, cpu = [LayerShape(2, 16)] * 3, torch.device("cpu")
    whole = kv_format(spec, shapes, PLAIN, torch.float32, cpu)
    parts = [kv_format(spec, shapes, Place(rank, 2), torch.float32, cpu) for rank in range(2)]
    for layer in range(3):
        assert whole.scales[layer].factors.equal(FACTORS[layer])
        assert torch.cat([part.scales[layer].factors for part in parts], dim=1).equal(FACTORS[layer])
        assert whole.names[layer] == parts[0].names[layer] == parts[1].names[layer]
    assert len(set(whole.names.values())) == 3
    dummy = kv_format(replace(spec, load_format="dummy"), shapes, PLAIN, torch.float32, cpu)
    assert set(dummy.names.values()) == {"float8_e4m3fn/scales=1"}, "its weights are others"


def test_an_unknown_type_is_refused() -> None:
    spec = replace(make_spec(tiny("llama")), kv=KVSpec(dtype="fp4"))
    with pytest.raises(ConfigError, match=r"kv\.dtype: 'fp4' is unknown; set one of auto, fp8"):
        kv_format(spec, [], PLAIN, torch.float32, torch.device("cpu"))


def test_a_gpu_that_cannot_read_it_is_refused_with_what_it_has() -> None:
    spec = replace(make_spec(tiny("llama")), kv=KVSpec(dtype="fp8"), device="cuda")
    with pytest.raises(ConfigError, match=r"8\.9 or newer .*, and NVIDIA A100 has 8\.0; set kv\.dtype: auto"):
        check_fp8(spec, Facts("NVIDIA A100", (8, 0), has_triton=True))
    with pytest.raises(ConfigError, match=r"triton is not installed; install it, or set kv\.dtype: auto"):
        check_fp8(spec, Facts("NVIDIA H100", (9, 0), has_triton=False))
    for capability in ((8, 9), (9, 0), (10, 0)):
        check_fp8(spec, Facts("any", capability, has_triton=True))
    check_fp8(replace(spec, kv=KVSpec()), Facts("NVIDIA A100", (8, 0), has_triton=False))
