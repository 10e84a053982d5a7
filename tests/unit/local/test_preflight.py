"""What is wrong with a model's files or the device is told before anything starts."""

import json
import shutil
from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.host.cpus import Usable
from cluster.local.preflight import as_every_node, check_device, check_model, warnings
from workers.model.registry import resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a model that can be served."""
    return Path(shutil.copytree(resolve_model("demo"), tmp_path / "model"))


def _break(folder: Path, name: str, content: str | bytes | None) -> None:
    path = folder / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)


def test_a_model_that_can_be_served_passes(folder: Path) -> None:
    check_model(folder, BatonConfig())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is not JSON .* fetch the model again"),
        ("config.json", "[]", "config.json is no JSON object; fetch the model again"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json is not a readable tokenizer"),
        ("tokenizer_config.json", "nothing", "tokenizer_config.json is not JSON"),
        ("chat_template.jinja", "{% for %}", "the chat template 'default' in .* does not compile"),
        ("generation_config.json", '{"temperature": 1e999}', "temperature is inf; it must be a finite number, 0 "),
        ("model.safetensors", b"\x00", "is cut short or no safetensors file; fetch it again"),
        ("model.safetensors", None, r"has no \*.safetensors"),
    ],
)
def test_a_broken_file_is_named(folder: Path, name: str, content: str | bytes | None, message: str) -> None:
    _break(folder, name, content)
    with pytest.raises(ConfigError, match=f"^model: .*{message}"):
        check_model(folder, BatonConfig())


def test_weights_that_broke_off_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="is cut short"):
        check_model(folder, BatonConfig())


@pytest.mark.parametrize("section", ["tools", "reasoning"])
def test_a_parser_that_nobody_knows_is_refused_by_its_key(folder: Path, section: str) -> None:
    check_model(folder, loads(f"{section}: {{parser: qwen3}}"))
    check_model(folder, loads(f"{section}: {{parser: none}}"))
    with pytest.raises(ConfigError, match=rf"^{section}\.parser: loud is no format .* give auto, none, or one of"):
        check_model(folder, loads(f"{section}: {{parser: loud}}"))


def test_random_weights_need_no_file(folder: Path) -> None:
    _break(folder, "model.safetensors", None)
    check_model(folder, BatonConfig(load_format="dummy"))


def test_a_named_template_that_does_not_compile_is_named(folder: Path) -> None:
    settings = {"chat_template": [{"name": "tool_use", "template": "{{"}]}
    _break(folder, "tokenizer_config.json", json.dumps(settings))
    with pytest.raises(ConfigError, match="the chat template 'tool_use'"):
        check_model(folder, BatonConfig())


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.local.preflight.GPU_DEVICES", ("/dev/no-such-gpu",))
    with pytest.raises(ConfigError, match="device: cuda is asked for, but this machine shows no NVIDIA GPU; set"):
        check_device(BatonConfig(device="cuda"))
    check_device(BatonConfig(device="auto"))


def test_a_degree_that_divides_nothing_is_refused_by_its_pool(folder: Path) -> None:
    good, bad = loads("pools: {mixed: {tensor_parallel: 3}}"), loads("pools: {decode: {tensor_parallel: 2}}")
    check_model(folder, good)
    check_model(folder, loads("pools: {prefill: {sequence_parallel: 2, tensor_parallel: 3}}"))
    with pytest.raises(ConfigError, match=r"^pools.prefill.tensor_parallel: 2 does not divide the 9"):
        check_model(folder, loads("pools: {prefill: {sequence_parallel: 3, tensor_parallel: 2}}"))
    with pytest.raises(ConfigError, match=r"^pools.decode.tensor_parallel: 2 does not divide the 9 .* set one of 1, 3"):
        check_model(folder, bad)


@pytest.mark.parametrize("is_multimodal", [False, True])
def test_a_degree_that_does_not_divide_linear_heads_is_refused_by_its_pool(folder: Path, is_multimodal: bool) -> None:
    text = {"model_type": "qwen3_5_text", "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 768}
    text |= {"linear_num_key_heads": 4, "linear_num_value_heads": 8}
    told = {"model_type": "qwen3_5", "text_config": text} if is_multimodal else text
    _break(folder, "config.json", json.dumps(told))
    pools = "pools: {prefill: {sequence_parallel: 4}, decode: {tensor_parallel: %d}}"
    check_model(folder, loads(pools % 2))
    with pytest.raises(
        ConfigError, match=r"^pools.decode.tensor_parallel: 8 does not divide the linear_num_key_heads 4 .* 1, 2, 4$"
    ):
        check_model(folder, loads(pools % 8))


def test_more_ranks_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.local.preflight.usable", lambda: Usable(cores=(3, 5), is_capped=False))
    (said,) = warnings(loads("device: cpu\npools: {mixed: {workers: 1, tensor_parallel: 3}}"))
    assert said.startswith("pools: 3 ranks on 2 cores: each wants a core of its own")
    assert not list(warnings(loads("device: cpu\npools: {mixed: {workers: 1}}")))


def test_states_further_apart_than_the_model_s_positions_are_refused(folder: Path) -> None:
    config = loads("engine: {state_cache_spacing: 1000000000}")
    with pytest.raises(ConfigError, match="1000000000 tokens are not below the longest sequence, 2048: no prompt"):
        check_model(folder, config)


def test_a_machine_of_its_own_counts_as_every_node_that_pools_ask_for() -> None:
    text = "pools: {{prefill: {{workers: 1}}, decode: {{workers: 2{}}}}}"
    asking = loads(text.format(", resources: {baton_decode: 1}, labels: {baton.dev/pool: decode}"))
    assert as_every_node(asking) == loads(text.format(""))
    plain = BatonConfig()
    assert as_every_node(plain) is plain
