"""Loading: what is served comes up right, what is not is refused by name."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from baton.errors import ConfigError
from tests.models import COMMON, tiny
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from workers.model import specs
from workers.model.loader import load_model
from workers.model.registry import BUNDLED, resolve_model
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _config_folder(tmp_path: Path, model_type: str, **fields: Any) -> Path:
    """A folder with a config and no weights."""
    AutoConfig.for_model(model_type, **fields).save_pretrained(tmp_path)
    return tmp_path


def test_dummy_weights_need_no_files_and_follow_the_seed(tmp_path: Path) -> None:
    folder = _config_folder(tmp_path, "llama", **COMMON)
    first, again, other = (load_model(make_spec(folder, load_format="dummy", seed=seed)) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert all(a.equal(b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_dummy_weights_leave_the_callers_random_state_alone(tmp_path: Path) -> None:
    folder = _config_folder(tmp_path, "llama", **COMMON)
    before = torch.random.get_rng_state()
    load_model(make_spec(folder, load_format="dummy"))
    assert torch.random.get_rng_state().equal(before)


def test_the_fingerprint_tells_weights_and_dtypes_apart(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny("llama"), folder)
    same = load_model(make_spec(folder)).fingerprint
    assert same == load_model(make_spec(tiny("llama"))).fingerprint
    assert same != load_model(make_spec(folder, dtype="bfloat16")).fingerprint
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    model.save_pretrained(folder)
    assert same != load_model(make_spec(folder)).fingerprint


def test_end_tokens_come_from_the_generation_config_first(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny("llama", eos_token_id=5), folder)
    (folder / "generation_config.json").unlink()
    assert load_model(make_spec(folder)).eos_token_ids == {5}
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load_model(make_spec(folder)).eos_token_ids == {7, 9}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token_id": "</s>"}', "eos_token_id is '</s>'; it must be a token id or a list of them"),
        ('{"eos_token_id": [7, -1]}', "eos_token_id is [7, -1]; it must be a token id or a list of them"),
        ("{", "is not JSON"),
    ],
)
def test_bad_end_tokens_are_refused_by_file_and_name(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        specs.eos_token_ids(tmp_path, None)
    assert message in caught.value.message
    assert str(tmp_path / "generation_config.json") in caught.value.message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \*.safetensors.*load_format: dummy"):
        load_model(make_spec(_config_folder(tmp_path, "llama", **COMMON)))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        load_model(make_spec(tmp_path))


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ConfigError, match=r"config.json cannot be read"):
        load_model(make_spec(tmp_path))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer_types", ["mystery_attention", "full_attention"], "layers of type mystery_attention; served are full_"),
        ("hidden_size", "wide", "config.json cannot be read: .*hidden_size"),
    ],
)
def test_a_config_that_transformers_does_not_take_is_refused_by_name(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    told = {"model_type": "qwen3_next", "num_hidden_layers": 2, "vocab_size": 160, field: value}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=message):
        load_model(make_spec(tmp_path))


def test_a_weight_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    folder = _config_folder(tmp_path, "llama", **COMMON)
    (folder / "model.safetensors").write_bytes((10**6).to_bytes(8, "little"))
    with pytest.raises(ConfigError, match="cut short"):
        load_model(make_spec(folder))


@pytest.mark.parametrize("keep", [0, 7, 900, -1])
def test_a_copy_that_broke_off_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny("llama"), folder)
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors is cut short"):
        load_model(make_spec(folder))


def test_missing_weights_are_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ConfigError, match=r"lacks 9 weights of LlamaForCausalLM, the first is model.layers.3"):
        load_model(make_spec(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_gpu_that_is_absent_is_named() -> None:
    with pytest.raises(ConfigError, match="device: cuda is asked for"):
        load_model(make_spec(tiny("llama"), device="cuda"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("device", "tpu", "device: 'tpu'"), ("dtype", "int8", "dtype: 'int8'"), ("load_format", "gguf", "load_format")],
)
def test_an_unknown_setting_is_refused(field: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(make_spec(tiny("llama"), **{field: value}))


def test_too_little_memory_says_how_much_is_needed_and_there() -> None:
    engine = EngineSpec(memory_bytes=500 << 30)
    message = (
        r"512,000 MiB of KV blocks and 0 MiB of weights make 512,000 MiB, but only [\d,]+ MiB are available on cpu"
    )
    with pytest.raises(ConfigError, match=message):
        load_model(make_spec(tiny("llama"), engine=engine))


def test_too_few_blocks_for_the_length_asked_for_names_the_bytes() -> None:
    engine = EngineSpec(block_size=4, memory_bytes=10_000, max_model_len=64)
    # a token: 3 layers of 2 heads of 16 floats, key and value: 768 bytes; a block of 4: 3,072; 64 tokens: 16 blocks
    with pytest.raises(ConfigError, match=r"10000 bytes hold 3 KV blocks of 3072 bytes.*takes 16 \(49152 bytes\)"):
        TorchRunner(make_spec(tiny("llama"), engine=engine))


def test_the_length_is_what_the_blocks_hold_when_none_is_given() -> None:
    runner = TorchRunner(make_spec(tiny("llama"), engine=EngineSpec(block_size=4, memory_bytes=10_000)))
    assert (runner.num_blocks, runner.max_model_len) == (3, 12)
    assert TorchRunner(make_spec(tiny("llama"), max_model_len=None)).max_model_len == 256


def test_a_length_over_the_models_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine.max_model_len: 257 is over 256"):
        TorchRunner(make_spec(tiny("llama"), max_model_len=257))


SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
}
MLA: dict[str, Any] = {**SMALL, "num_key_value_heads": 4, "first_k_dense_replace": 1}


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("gemma3", {}, "'gemma3' is a multimodal config.*gemma3_text"),
        ("t5", {}, "'t5' is an encoder-decoder"),
        ("vit", {}, "'vit' has no causal language model"),
        ("mamba", {}, "layers of type linear_attention"),
        ("olmo_hybrid", {}, "layers of type linear_attention; served are .*linear_attention of bamba, .*minimax"),
        ("nemotron_h", {}, "layers of type linear_attention, mlp, moe; served are"),
        ("falcon_h1", {}, "layers of type hybrid"),
        ("bloom", {}, "BloomForCausalLM does not go through transformers' attention interface"),
        ("falcon", {}, "FalconForCausalLM does not go through transformers' attention interface"),
        ("gemma3n_text", {}, "num_kv_shared_layers"),
        ("deepseek_v3", MLA, "keys of 192 and values of 128 dimensions"),
        ("bert", SMALL, "attends in both directions"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    tmp_path: Path, model_type: str, fields: dict[str, Any], message: str
) -> None:
    folder = _config_folder(tmp_path, model_type, **fields)
    with pytest.raises(ConfigError, match=message):
        load_model(make_spec(folder, load_format="dummy", max_model_len=None))


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 64,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize(
    ("family", "rope", "length"),
    [("phi3", LONGROPE, 64), ("llama", DYNAMIC, 256)],
    ids=["longrope", "dynamic"],
)
def test_rope_that_depends_on_the_length_is_served_up_to_where_it_does(
    family: str, rope: dict[str, Any], length: int
) -> None:
    fields: dict[str, Any] = {"rope_parameters": rope}
    if family == "phi3":
        fields["original_max_position_embeddings"] = 64
    folder = tiny(family, **fields)
    with pytest.raises(ConfigError, match=rf"max_model_len: {length + 1} is over {length} .*{rope['rope_type']}"):
        TorchRunner(make_spec(folder, max_model_len=length + 1))
    runner = TorchRunner(make_spec(folder, max_model_len=None))
    assert runner.max_model_len == length
    given = prompts_of(random.Random(4), (length - 12, 5, 20), 160)
    driver = Driver(runner, seed=1, max_chunk=40)
    for prompt in given:
        driver.add(prompt, 11)
    driver.finish()
    assert count_differences(driver.streams, generate(folder, given, 11)) == 0


def test_bundled_names_and_folders_are_resolved() -> None:
    assert resolve_model(str(tiny("llama"))) == tiny("llama").resolve()
    if (BUNDLED / "demo" / "config.json").is_file():
        assert resolve_model("demo") == BUNDLED / "demo"


@pytest.mark.parametrize("name", ["/nowhere/at/all", "demmo", "./x", "a/b/c"])
def test_a_name_that_is_no_model_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is no folder; give a bundled name \(smollm2, demo, demo-draft, demo-hybrid\)"
    ):
        resolve_model(name)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))


def test_a_hub_id_that_is_not_cached_is_refused_without_a_network(tmp_path: Path) -> None:
    script = (
        "from workers.model.registry import resolve_model\n"
        "from baton.errors import ConfigError\n"
        "import sys\n"
        "try:\n    resolve_model('nobody/nothing')\n"
        "except ConfigError as error:\n    print(error.message)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    message, torch_loaded = done.stdout.strip().splitlines()
    assert message.startswith("model: 'nobody/nothing' is not in the local Hub cache")
    assert torch_loaded == "False"
