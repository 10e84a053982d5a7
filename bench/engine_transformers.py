"""transformers for `bench.engine`: `generate`, with prompts padded on the left, and its continuous batching.

Weights are random: no time depends on them.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, DynamicCache, GenerationConfig

from bench.engine_sides import MAX_BATCHED_TOKENS, NUM_THREADS


class Padded:
    """`generate`: as many steps as the longest answer takes."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def decode(self, batch: int, context: int, steps: int) -> float:
        """Over a cache made up of zeros, as `generate` keeps one."""
        cache = self._cache(batch, context)
        tokens = torch.ones(batch, 1, dtype=torch.int64)
        began_s = 0.0
        for step in range(steps + 1):  # the first is not counted
            if step == 1:
                began_s = time.perf_counter()
            logits = self._model(tokens, past_key_values=cache, use_cache=True).logits
            tokens = logits[:, -1:].argmax(-1)
        return (time.perf_counter() - began_s) / steps

    def _cache(self, batch: int, context: int) -> Any:
        config = self._model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (batch, config.num_key_value_heads, context, head_dim)
        cache: Any = DynamicCache(config=config)
        for layer in range(config.num_hidden_layers):
            keys, values = (torch.zeros(shape, dtype=self._model.dtype) for _ in range(2))
            cache.update(keys, values, layer)
        return cache

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        width, count = max(map(len, prompts)), max(num_outputs)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        found = self._model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )
        if found.shape[1] != width + count:
            raise RuntimeError(f"generate made {found.shape[1] - width} tokens, not {count}")


class Batched:
    """Continuous batching, which `generate_batch` starts and stops; here it stays up between jobs."""

    def __init__(self, model: Any) -> None:
        make_config: Any = GenerationConfig
        config = make_config(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        limits = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=MAX_BATCHED_TOKENS)
        self._manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=limits)
        self._manager.start()

    def decode(self, batch: int, context: int, steps: int) -> float:
        raise NotImplementedError("asked for the ragged batch alone")

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        for prompt, count in zip(prompts, num_outputs, strict=True):
            self._manager.add_request(list(prompt), max_new_tokens=count)
        made, left = 0, len(prompts)
        while left:
            result = self._manager.get_result(timeout=1)
            if result is None and not self._manager.is_running():
                raise RuntimeError("transformers' continuous batching ended")
            if result is not None and result.is_finished():
                left -= 1
                made += len(result.generated_tokens)
        if made != sum(num_outputs):
            raise RuntimeError(f"continuous batching made {made} tokens, not {sum(num_outputs)}")


def start(settings: dict[str, Any]) -> Padded | Batched:
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    factory: Any = AutoModelForCausalLM
    config = AutoConfig.from_pretrained(settings["folder"])
    dtype = getattr(torch, settings["dtype"])
    model = factory.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
    return Batched(model) if settings["side"] == "transformers-batch" else Padded(model)
