"""What is not served is refused by name, from config.json alone, with what is served."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.local.preflight import check_model
from tests.quantized import FORMS, checkpoint
from tests.unit.model.driver import make_spec
from workers.model import registry
from workers.model.loader import load_model
from workers.model.quantized.formats import AWQ, GPTQ, MXFP4, Packed, Scaled, scheme_of

WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}


def compressed(weights: dict[str, Any] = WEIGHTS, form: str = "pack-quantized", **config: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, **config}


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Scaled(block=(128, 128))),
        ({"quant_method": "fp8", "activation_scheme": "static"}, Scaled()),
        (compressed(), Packed(bits=4, group=32)),
        (compressed({**WEIGHTS, "group_size": None, "strategy": "channel"}), Packed(bits=4, group=None)),
        (compressed({"num_bits": 8, "type": "float"}, "float-quantized"), Scaled()),
        (compressed({"num_bits": 8, "type": "int", "group_size": 64}, "int-quantized"), Scaled(block=(1, 64))),
        (compressed(form="dense"), None),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, AWQ(group=128)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, AWQ(group=64)),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, GPTQ(bits=4, group=None, zero_offset=1)),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": 32, "checkpoint_format": "gptq_v2"},
            GPTQ(bits=8, group=32, zero_offset=0),
        ),
    ],
)
def test_what_is_served(config: dict[str, Any], scheme: object) -> None:
    assert scheme_of({"model_type": "llama", "quantization_config": config}) == scheme
    assert scheme_of({"model_type": "x", "text_config": {"quantization_config": config}}) == scheme


def test_configs_without_quantization_and_of_gpt_oss() -> None:
    assert scheme_of({"model_type": "llama"}) is None
    assert scheme_of({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}) == MXFP4()


REFUSED = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method 'bitsandbytes' is not served"),
    ({"quant_method": "hqq"}, "quant_method 'hqq' is not served"),
    ({"quant_method": "eetq"}, "quant_method 'eetq' is not served"),
    ({"quant_method": "torchao"}, "quant_method 'torchao' is not served"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_method 'modelopt' is not served"),
    ({"quant_method": "mxfp4"}, "quant_method 'mxfp4' of 'llama' is not served"),
    ({"bits": 4}, "quant_method is missing"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size \[128\] must be two whole numbers"),
    ({"quant_method": "awq", "version": "gemv"}, "version 'gemv' of awq"),
    ({"quant_method": "awq", "bits": 8}, "bits 8 is not served for awq"),
    ({"quant_method": "gptq", "bits": 3}, "bits 3 is not served for gptq"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin' of gptq"),
    ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:lm_head": {}}}, "dynamic gives modules forms of their own"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size 0 must be a whole number"),
    (compressed(form="nvfp4-pack-quantized"), "format 'nvfp4-pack-quantized' is not served"),
    (compressed(form="marlin-24"), "format 'marlin-24' is not served"),
    (compressed({**WEIGHTS, "num_bits": 3}), "int of 3 bits is not served in the format 'pack-quantized'"),
    (compressed({**WEIGHTS, "type": "float"}), "float of 4 bits is not served"),
    (compressed(form="int-quantized"), "num_bits 4 is not served in the format 'int-quantized'"),
    (compressed(transform_config={"config_groups": {"u": {}}}), "transform_config asks for products"),
    (compressed(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format 'sparse-24-bitmask'"),
    (compressed(quantization_status="frozen"), "quantization_status 'frozen'"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_is_not_served_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        scheme_of({"model_type": "llama", "quantization_config": config})
    assert "served are fp8" in caught.value.message


def test_groups_in_different_forms_are_refused() -> None:
    groups = {"a": {"weights": WEIGHTS}, "b": {"weights": {**WEIGHTS, "num_bits": 8}}}
    with pytest.raises(ConfigError, match="several groups"):
        scheme_of({"quantization_config": {**compressed(), "config_groups": groups}})


def test_a_refusal_needs_no_torch_and_comes_before_anything_starts(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["awq"], tmp_path)
    _tell(folder, {"quant_method": "hqq"})
    with pytest.raises(ConfigError, match="'hqq' is not served"):
        load_model(make_spec(folder))
    with pytest.raises(ConfigError, match="'hqq' is not served"):
        registry._check_weights(folder / "config.json")
    script = "import sys\nfrom workers.model.quantized.formats import scheme_of\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_up_refuses_before_anything_starts() -> None:
    demo = registry.BUNDLED / "demo"
    config = json.loads((demo / "config.json").read_text())
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(demo, Path(scratch) / "model"))
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "eetq"}}))
        with pytest.raises(ConfigError, match="'eetq' is not served"):
            check_model(folder, BatonConfig(model=str(folder)))


def test_quantized_weights_whose_config_says_nothing_are_refused(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["gptq"], tmp_path)
    _tell(folder, None)
    with pytest.raises(ConfigError, match=r"has quantized weights \(.*qweight\), but its config.json has no"):
        load_model(make_spec(folder))


def test_narrow_weights_without_scales_are_refused(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["fp8, blocks"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"model.layers.1.mlp.up_proj.weight is stored as F8_E4M3, without scales"):
        load_model(make_spec(folder))


def test_scales_of_another_number_are_refused(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["fp8, blocks"], tmp_path)
    _tell(folder, {"quant_method": "fp8", "weight_block_size": [16, 16]})
    with pytest.raises(
        ConfigError, match=r"has 2 scales for 64 elements, .*scale_inv has the shape .*\[16, 16\]; fetch"
    ):
        load_model(make_spec(folder))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["awq"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.qzeros"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"model.layers.0.mlp.up_proj.weight .*qzeros.*; fetch the folder again"):
        load_model(make_spec(folder))


@pytest.mark.parametrize("form", ["fp8, blocks", "gptq"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, form: str, value: float) -> None:
    folder, _ = checkpoint("llama", FORMS[form], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj." + ("scales" if form == "gptq" else "weight_scale_inv")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"up_proj.weight has 1 of \d+ scales in {name} that are no finite numbers"):
        load_model(make_spec(folder))


def test_groups_without_scales_are_refused(tmp_path: Path) -> None:
    folder, _ = checkpoint("llama", FORMS["gptq"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.g_idx"] = torch.full((64,), 999, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"up_proj.weight has the group 999 in its g_idx, where \d+ have scales"):
        load_model(make_spec(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {}},
            "names no weights",
        ),
        ({"bits": 4}, r"quant_method is missing"),
    ],
)
def test_what_a_config_leaves_out_is_said(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scheme_of({"model_type": "llama", "quantization_config": config})


def _tell(folder: Path, quantization: dict[str, Any] | None) -> None:
    path = folder / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "quantization_config": quantization}))
