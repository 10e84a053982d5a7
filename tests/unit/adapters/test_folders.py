"""What is wrong with an adapter's folder is said by name, with its value and what to do, before anything computes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.errors import ConfigError
from cluster.config.load import from_tree
from cluster.models.adapters import find_adapters
from tests.adapters import adapter_of
from tests.models import tiny
from tests.unit.adapters.asked import adapted_spec
from tests.unit.model.test_hybrid_engine import spec_of
from workers.adapters.adapter import AdapterSpec
from workers.adapters.fitting import check_fits
from workers.adapters.peft_folder import read_adapter
from workers.model.loader import load_model
from workers.model.runner import TorchRunner

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that can be changed."""
    return shutil.copytree(adapter_of(tiny("llama"), 2, ("q_proj", "v_proj", "down_proj"), r=3), tmp_path / "adapter")


def say(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change(folder: Path, work: Callable[[Weights], None]) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    work(weights)
    save_file(weights, path)


def load(folder: Path) -> None:
    """As `up` does, then as a worker."""
    config = from_tree({"model": str(tiny("llama")), "adapters": {"sql": str(folder)}})
    (adapter,) = find_adapters(config, tiny("llama"))
    runner = TorchRunner(adapted_spec(tiny("llama")))
    runner.load_adapter(7, adapter)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, r"peft_type: 'IA3' is not supported; give a LORA adapter"),
        ({"task_type": "SEQ_CLS"}, r"task_type: 'SEQ_CLS' is not supported; give one of CAUSAL_LM"),
        ({"use_dora": True}, r"use_dora: True is not supported; train without DoRA"),
        ({"lora_bias": True}, r"lora_bias: True is not supported; train with lora_bias: false"),
        ({"bias": "all"}, r"bias: 'all' is not supported; train with bias: none"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: \['lm_head'\] is not supported; train without it"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out: True is not supported; give an adapter of nn\.Linear"),
        ({"target_parameters": ["experts.up"]}, r"target_parameters: .* experts' weights cannot be adapted"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication: \[\[0, 1\]\] is not supported; serve"),
        ({"use_something_new": 3}, r"use_something_new: 3 is not supported; train without it, or merge"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights: 'pissa' changes the base model's own weights; convert"),
        ({"r": "big"}, r"\br: 'big' is no number above 0"),
        ({"lora_alpha": -1}, r"lora_alpha: -1 is no number above 0"),
        ({"target_modules": "q_proj("}, r"target_modules: 'q_proj\(' is no regular expression"),
        ({"target_modules": 3}, r"target_modules: 3 is no list of names"),
        ({"rank_pattern": []}, r"^$"),
        ({"rank_pattern": {"q_proj": 2}}, r"q_proj has A of \[3, 64\] and B of \[64, 3\], but the config says rank 2"),
        ({"layers_to_transform": "all"}, r"layers_to_transform: 'all' is no list of layers"),
    ],
)
def test_what_a_config_asks_for_is_refused_by_name(folder: Path, fields: dict[str, Any], words: str) -> None:
    say(folder, **fields)
    if words == "^$":
        read_adapter("sql", folder)  # an empty list is PEFT's nothing
        return
    with pytest.raises(ConfigError, match=rf"^adapters\.sql: .*{words}"):
        read_adapter("sql", folder)


def _without(key: str) -> Callable[[Weights], None]:
    return lambda weights: weights.__delitem__(key)


def _with(key: str, *shape: int) -> Callable[[Weights], None]:
    return lambda weights: weights.__setitem__(key, torch.zeros(shape))


def _layer_less(weights: Weights) -> None:
    for end in ("lora_A.weight", "lora_B.weight"):
        del weights[f"{Q0}.{end}"]


def _broken(weights: Weights) -> None:
    weights[f"{Q0}.lora_B.weight"][0, 0] = torch.nan


def _wide(weights: Weights) -> None:
    weights[f"{Q0}.lora_A.weight"] = torch.zeros(3, 128)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (_broken, r"layers\.0\.self_attn\.q_proj\.lora_B\.weight has a value that is infinite or no number; save"),
        (_without(f"{Q0}.lora_A.weight"), r"lacks the tensor base_model.*layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
        (
            _layer_less,
            r"lacks the tensors of 1 layers that target_modules names, the first is model\.layers\.0.*q_proj",
        ),
        (_wide, r"q_proj as a layer of 128 inputs and 64 outputs, which has 64 and 64 here: it is of another base"),
        (_with(f"{Q0}.lora_magnitude_vector", 64), r"has the tensor .*lora_magnitude_vector, which is no A or B"),
        (
            _with("base_model.model.model.embed_tokens.lora_embedding_A", 3, 160),
            r"embed_tokens, an embedding, no linear",
        ),
        (_with("strange", 1), r"has the tensor strange, which is no A or B of a linear layer"),
    ],
)
def test_tensors_that_are_missing_or_too_many_are_named(
    folder: Path, work: Callable[[Weights], None], words: str
) -> None:
    change(folder, work)
    with pytest.raises(ConfigError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        ("model.norm", (64, 64), r"adapts model\.norm, a LlamaRMSNorm, no linear layer; train without it"),
        ("lm_head", (160, 64), r"adapts lm_head, the output layer, which is not supported"),
        (
            "model.layers.9.self_attn.q_proj",
            (64, 64),
            r"layers\.9\.self_attn\.q_proj, which this model has not: it is of",
        ),
    ],
)
def test_layers_that_cannot_be_adapted_are_named(folder: Path, module: str, shape: tuple[int, int], words: str) -> None:
    def work(weights: Weights) -> None:
        weights[f"base_model.model.{module}.lora_A.weight"] = torch.zeros(3, shape[1])
        weights[f"base_model.model.{module}.lora_B.weight"] = torch.zeros(shape[0], 3)

    change(folder, work)
    with pytest.raises(ConfigError, match=words):
        load(folder)


def test_weights_of_experts_are_refused_by_name() -> None:
    base = tiny("qwen3_moe")
    folder = adapter_of(tiny("llama"), 1, ("q_proj",))
    adapter = read_adapter("sql", folder)
    moved = {key.replace("self_attn.q_proj", "mlp.experts.0.up_proj"): pair for key, pair in adapter.pairs.items()}
    linears = load_model(spec_of(base, state_cache_spacing=None)).linears
    object.__setattr__(adapter, "pairs", moved)
    with pytest.raises(
        ConfigError, match=r"layers\.0\.mlp\.experts\.0\.up_proj, a weight of experts, which is not supp"
    ):
        check_fits(adapter, linears.shapes, linears.others)


def test_ranks_above_the_most_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has rank 65; 64 is the most, train with a lower r"):
        read_adapter("sql", adapter_of(tiny("llama"), 1, ("q_proj",), r=65))
    read_adapter("sql", adapter_of(tiny("llama"), 1, ("q_proj",), r=64))


def test_an_adapter_of_a_larger_model_is_refused_before_a_worker_starts() -> None:
    other = adapter_of(tiny("llama", hidden_size=96, num_attention_heads=6), 1, ("q_proj",))
    config = from_tree({"model": str(tiny("llama")), "adapters": {"sql": str(other)}})
    with pytest.raises(ConfigError, match=r"adapters\.sql: .*q_proj as a layer of 96 inputs .* of another base model"):
        find_adapters(config, tiny("llama"))


def test_files_that_are_not_there_or_cut_short_are_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:40], b"", b"\xff" * 64):
        weights.write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"adapters\.sql: .*safetensors is no whole safetensors file \(.*copy the"
        ):
            read_adapter("sql", folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin alone, a pickle.*safe_serialization=True"):
        read_adapter("sql", folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors; copy"):
        read_adapter("sql", folder)
    (folder / "adapter_config.json").write_text("[1")
    with pytest.raises(ConfigError, match=r"adapter_config\.json cannot be read"):
        read_adapter("sql", folder)
    with pytest.raises(ConfigError, match=r"adapters\.sql: .*/nowhere is no folder; give one that PEFT"):
        read_adapter("sql", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json; give a folder that PEFT"):
        read_adapter("sql", tmp_path)


def test_a_folder_that_changed_since_it_was_first_read_is_refused(folder: Path) -> None:
    said = AdapterSpec(name="sql", folder=str(folder), content_hash=read_adapter("sql", folder).content_hash)
    say(folder, lora_alpha=32)
    with pytest.raises(
        ConfigError, match=r"adapters\.sql: .* has the content [0-9a-f]{32} here and [0-9a-f]{32} where"
    ):
        TorchRunner(adapted_spec(tiny("llama"))).load_adapter(3, said)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"adapters": ["a"]}, r"adapters: \['a'\] is no map of names to folders; e\.g\."),
        ({"adapters": {"a b": "/x"}}, r"adapters: 'a b' is no name for an adapter; give up to 128 letters"),
        ({"adapters": {"": "/x"}}, r"adapters: '' is no name for an adapter"),
        ({"adapters": {"a": 3}}, r"adapters\.a: 3 is no folder; give the path"),
        ({"adapters_dynamic": {"folders": "/x"}}, r"adapters_dynamic\.folders: '/x' is no list of folders"),
        ({"adapters_dynamic": {"max_loaded": 0}}, r"adapters_dynamic\.max_loaded: 0 is out of range; give 1 to 256"),
    ],
)
def test_what_a_config_says_of_adapters_is_checked(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_tree(tree)


def test_an_adapter_called_as_the_model_is_refused(folder: Path) -> None:
    config = from_tree({"model": str(tiny("llama")), "served_name": "m", "adapters": {"m": str(folder)}})
    with pytest.raises(ConfigError, match=r"adapters\.m: is the model's own name, which requests would mean"):
        find_adapters(config, tiny("llama"))
