"""How much dearer later tokens are taken to be, and how much cheaper those of the first rank."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen3MoeConfig, Qwen3NextConfig

from tests.models import tiny
from tests.unit.model.test_hybrid_engine import spec_of
from workers.model.hybrid.mixer import Mixer, mixers_of
from workers.model.loader import load_model
from workers.parallel.token_costs import ATTENTION_COST, token_costs

SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
FLOAT32 = torch.float32


def growth(config: object) -> float:
    found = token_costs(config, (), FLOAT32)
    assert found.first_cost == 1
    return found.growth


def test_a_key_is_weighed_against_the_products_with_weights() -> None:
    products = 512 * (8 + 4 + 4 + 8) * 64 + 3 * 512 * 1024
    found = growth(LlamaConfig(intermediate_size=1024, **SIZES))
    assert found == pytest.approx(ATTENTION_COST * 2 * 8 * 64 / products)


def test_windows_and_states_cost_the_same_wherever_a_token_is() -> None:
    assert growth(MistralConfig(sliding_window=64, **SIZES)) == 0
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    mixed = Qwen3NextConfig(num_hidden_layers=4, layer_types=kinds, num_experts_per_tok=2, **SIZES)
    whole = Qwen3NextConfig(num_hidden_layers=4, layer_types=["full_attention"] * 4, num_experts_per_tok=2, **SIZES)
    assert growth(mixed) == pytest.approx(growth(whole) / 4)


def test_of_experts_those_count_that_a_token_goes_through() -> None:
    two = growth(Qwen3MoeConfig(num_experts_per_tok=2, moe_intermediate_size=256, **SIZES))
    dense = growth(LlamaConfig(intermediate_size=512, **SIZES))
    assert two == pytest.approx(dense)


@pytest.mark.parametrize("family", ["qwen3_5_text", "kimi_linear", "bamba", "minimax"])
def test_the_first_rank_is_spared_the_transition_of_a_delta_rule_alone(family: str) -> None:
    loaded = load_model(spec_of(tiny(family)), None)
    mixers: list[Mixer] = mixers_of(loaded.model)
    assert len(mixers) == 2
    is_delta = family in ("qwen3_5_text", "kimi_linear")
    assert [mixer.is_delta for mixer in mixers] == [is_delta] * 2
    exact, half = (token_costs(loaded.config, mixers, dtype) for dtype in (FLOAT32, torch.bfloat16))
    without = token_costs(loaded.config, (), FLOAT32)
    assert without.growth > exact.growth > half.growth > 0, "keys weigh less beside a recurrence"
    assert (1 > exact.first_cost > half.first_cost > 0) if is_delta else exact.first_cost == half.first_cost == 1
