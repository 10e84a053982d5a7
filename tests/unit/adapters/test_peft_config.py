"""Which layers an adapter is for, and how it is scaled: as PEFT says, over its own classes."""

from typing import Any

import pytest

from workers.adapters.peft_config import parse_config

MODULES = [
    *(f"model.layers.{layer}.self_attn.{name}" for layer in range(12) for name in ("q_proj", "k_proj")),
    *(f"model.layers.{layer}.mlp.up_proj" for layer in range(12)),
    "lm_head",
]
CASES: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["mlp.up_proj", "model.layers.3.self_attn.k_proj"]},
    {"target_modules": r".*\.[135]\..*(q|up)_proj"},
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["mlp.up_proj"]},
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*layers\.1.*"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1, 11]},
    {"target_modules": ["q_proj"], "layers_to_transform": 2, "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": 2, "layers_pattern": ["h"]},
    {"target_modules": ["proj"]},
]


@pytest.mark.parametrize("fields", CASES)
def test_targets_are_those_of_peft(fields: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists

    theirs = peft.LoraConfig(**fields)
    ours = parse_config({"peft_type": "LORA", **fields}, "")
    for module in MODULES:
        found = check_target_module_exists(theirs, module)
        wanted = bool(found) and type(found).__name__ != "_ExcludedModule"
        assert ours.is_target(module, is_head=module == "lm_head") is wanted, module


def test_all_linear_is_all_but_the_head() -> None:
    config = parse_config({"peft_type": "LORA", "target_modules": "all-linear"}, "")
    assert [name for name in MODULES if not config.is_target(name, is_head=name == "lm_head")] == ["lm_head"]


def test_ranks_and_scales_by_pattern() -> None:
    fields = {"r": 16, "lora_alpha": 32, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {r"layers\.1\..*": 8}}
    plain = parse_config({"peft_type": "LORA", "target_modules": ["q_proj"], **fields}, "")
    assert plain.rank_of("model.layers.0.self_attn.q_proj") == 4
    assert plain.rank_of("model.layers.0.mlp.up_proj") == 16
    assert plain.scale_of("model.layers.0.self_attn.q_proj") == 8.0
    assert plain.scale_of("model.layers.1.self_attn.q_proj") == 2.0
    stable = parse_config({"peft_type": "LORA", "target_modules": ["q_proj"], "use_rslora": True, **fields}, "")
    assert stable.scale_of("model.layers.0.mlp.up_proj") == 8.0
