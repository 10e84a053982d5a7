"""A layer that is fused for a GPU answers as the library's."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.unit.model.cpu.test_fused import SIZES, model_of
from workers.model.attention import build_meta
from workers.model.contract import Chunk
from workers.model.cuda.fused import GPULayer, fuse_layers
from workers.model.cuda.ragged import RaggedAttention
from workers.model.fused_layers import Layers
from workers.model.layer_cache import LayerCache, copy_rows
from workers.model.step import Step

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
KINDS = [
    (LlamaForCausalLM, LlamaConfig(**SIZES)),
    (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
]


@pytest.mark.parametrize(("kind", "config"), KINDS, ids=["llama", "qwen2, biases", "qwen3, norms of heads"])
def test_logits_of_a_prompt_and_the_token_after_it(kind: Any, config: Any) -> None:
    model = model_of(kind, config, rounded=False)
    want = _logits(model)
    assert fuse_layers(model, torch.float32) == 2
    layers = model.get_submodule("model.layers")
    assert type(layers) is Layers
    assert {type(layer) for layer in layers} == {GPULayer}
    for found, wanted in zip(_logits(model), want, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def test_keys_that_are_kept_elsewhere_are_written_there() -> None:
    model = model_of(*KINDS[0], rounded=False)
    want = _logits(model)
    fuse_layers(model, torch.float32)
    seen = []

    def elsewhere(*args: Any) -> None:
        seen.append(args[0].shape)
        copy_rows(*args)

    for found, wanted in zip(_logits(model, elsewhere), want, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
    assert len(seen) == 4


def _logits(model: nn.Module, write_kv: Any = copy_rows) -> list[torch.Tensor]:
    """Of seven tokens, and of one after them."""
    kv = torch.zeros(2, 2, 2, 16, 2, 8)  # layers, keys and values, blocks, tokens of one, heads, dimensions
    caches = {i: LayerCache.of(layer) for i, layer in enumerate(kv)}
    attention = RaggedAttention(torch.device("cpu"))
    found = []
    for start, ids in ((0, [1, 5, 9, 2, 0, 7, 3]), (7, [11])):
        chunk = Chunk(token_ids=ids, start=start, block_ids=[1], num_sequence_tokens=start + len(ids))
        meta = build_meta([chunk], 16)
        step = Step(meta.slot_mapping, caches, meta, attention, write_kv, None)
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            outputs = model(input_ids=tokens, position_ids=meta.positions[None], use_cache=False, step=step)
        found.append(outputs.logits)
    return found
