"""How much dearer later tokens are taken to be."""

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen3MoeConfig, Qwen3NextConfig

from workers.parallel.growth import ATTENTION_COST, attention_growth

SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}


def test_a_key_is_weighed_against_the_products_with_weights() -> None:
    products = 512 * (8 + 4 + 4 + 8) * 64 + 3 * 512 * 1024
    found = attention_growth(LlamaConfig(intermediate_size=1024, **SIZES))
    assert found == pytest.approx(ATTENTION_COST * 2 * 8 * 64 / products)


def test_windows_and_states_cost_the_same_wherever_a_token_is() -> None:
    assert attention_growth(MistralConfig(sliding_window=64, **SIZES)) == 0
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    mixed = Qwen3NextConfig(num_hidden_layers=4, layer_types=kinds, num_experts_per_tok=2, **SIZES)
    whole = Qwen3NextConfig(num_hidden_layers=4, layer_types=["full_attention"] * 4, num_experts_per_tok=2, **SIZES)
    assert attention_growth(mixed) == pytest.approx(attention_growth(whole) / 4)


def test_of_experts_those_count_that_a_token_goes_through() -> None:
    two = attention_growth(Qwen3MoeConfig(num_experts_per_tok=2, moe_intermediate_size=256, **SIZES))
    dense = attention_growth(LlamaConfig(intermediate_size=512, **SIZES))
    assert two == pytest.approx(dense)
