"""The points of `speed` by transformers as it is used by hand: sdpa attention, a cache that grows with each step."""

from typing import Any

import torch

from bench.gpu_check import card as cards
from bench.gpu_check.check import Check, SkippedError
from bench.gpu_check.points import batches_that_fit, shape_of, tell_card, tell_decode, tell_prefill
from bench.gpu_check.shape import Shape
from bench.gpu_check.speed import NUM_PREFILLS, NUM_STEPS, NUM_WARM_STEPS
from workers.model.device_memory import available_bytes


@torch.inference_mode()
def run(check: Check) -> None:
    shape = shape_of(check)
    card = cards.measure(check.device)
    tell_card(check, card)
    free_bytes = available_bytes(torch.device(check.device)) if not check.is_dry else 16 << 30
    batches = batches_that_fit(shape, free_bytes, tokens_each=shape.context + NUM_WARM_STEPS + NUM_STEPS)
    if not batches:
        raise SkippedError(f"{free_bytes / 1e9:.0f} GB are too few for {shape.name} in bfloat16")
    model = _model(shape, check.device)
    for batch in shape.batches:
        with check.item(f"decode {batch}"):
            if batch not in batches:
                raise SkippedError("its KV does not fit")
            tell_decode(check, card, shape, batch, _decode(model, check, shape, batch))
    for num_tokens in shape.prompts:
        with check.item(f"prefill {num_tokens}"):
            tell_prefill(check, card, shape, num_tokens, _prefill(model, check, num_tokens))


def _model(shape: Shape, device: str) -> Any:
    import tempfile
    from pathlib import Path

    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="baton-gpu-check-") as scratch:
        config = AutoConfig.from_pretrained(shape.write(Path(scratch)))
    factory: Any = AutoModelForCausalLM
    with torch.device(device):
        return factory.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def _decode(model: Any, check: Check, shape: Shape, batch: int) -> float:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    size = (batch, shape.kv_heads, shape.context - 1, shape.head_dim)
    for layer in range(shape.layers):
        keys = torch.randn(size, dtype=torch.bfloat16, device=check.device)
        cache.update(keys, keys.clone(), layer)
    tokens = torch.full((batch, 1), 7, device=check.device)

    def step() -> None:
        nonlocal tokens
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        tokens = logits[:, -1:].argmax(-1)
        tokens.tolist()  # as a server would: the token goes out

    return cards.seconds_of(step, check.device, runs=NUM_STEPS, warm_runs=NUM_WARM_STEPS)


def _prefill(model: Any, check: Check, num_tokens: int) -> float:
    tokens = torch.arange(num_tokens, device=check.device)[None] % 100 + 2

    def step() -> None:
        model(input_ids=tokens, use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()

    return cards.seconds_of(step, check.device, runs=NUM_PREFILLS, warm_runs=1)
