"""A fused layer answers as the library's, and a layer of another kind is left alone."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from workers.model import binding
from workers.model.attention import Scoring
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import fused, packed

pytestmark = [
    pytest.mark.skipif(not cpu_elementwise.available(), reason="no C compiler"),
    pytest.mark.usefixtures("isa"),
]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": binding.ATTENTION,
}


@dataclasses.dataclass
class Mean:
    """Attention of a kind: all that it is handed goes into its answer."""

    scoring: Scoring | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        self.scoring = scoring
        group = query.shape[1] // key.shape[1]
        weights = (query * key.repeat_interleave(group, 1)).softmax(-1)
        return (weights * value.repeat_interleave(group, 1)).transpose(1, 2).contiguous() * (layer + 1)


def model_of(kind: Any, config: Any, *, rounded: bool) -> nn.Module:
    binding.register()
    torch.manual_seed(0)
    model: nn.Module = kind(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.dim() == 1))
    return model.bfloat16().float() if rounded else model


def answer(model: nn.Module) -> Tensor:
    ids = torch.arange(7)[None]
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, position_ids=ids, use_cache=False, step=Mean()).logits
    return logits


@pytest.mark.parametrize("rounded", [True, False], ids=["panels", "float32 weights"])
@pytest.mark.parametrize(("kind", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)])
def test_fused_layers_answer_what_the_librarys_do(kind: Any, config: Any, rounded: bool) -> None:
    if not rounded and not packed.can_pack(torch.float32):
        pytest.skip("this torch has no packed linear layers")
    model = model_of(kind, config(**SIZES), rounded=rounded)
    expected = answer(model)
    packed.fuse_layers(model, torch.float32)
    layers = list(model.model.layers)  # type: ignore[union-attr, arg-type]
    assert {type(layer) for layer in layers} == {fused.PanelLayer if rounded else fused.FusedLayer}
    torch.testing.assert_close(answer(model), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_with_norms_of_its_own_for_queries_keeps_its_code() -> None:
    model = model_of(Qwen3ForCausalLM, Qwen3Config(**SIZES), rounded=True)
    before = [type(layer) for layer in model.model.layers]  # type: ignore[union-attr]
    packed.fuse_layers(model, torch.float32)
    assert [type(layer) for layer in model.model.layers] == before  # type: ignore[union-attr]
