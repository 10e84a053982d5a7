"""How each side of `speed` tells its points, so that they can be laid side by side."""

from bench.gpu_check.card import Card
from bench.gpu_check.check import Check
from bench.gpu_check.shape import QWEN3_8B, TINY, Shape

RESERVE_BYTES = 6 << 30  # for what a step computes on the way


def shape_of(check: Check) -> Shape:
    return TINY if check.is_dry else QWEN3_8B


def tell_card(check: Check, card: Card) -> None:
    check.figure(
        "the card",
        f"copies {card.bytes_per_s / 1e9:,.0f} GB/s, bfloat16 products {card.flops / 1e12:,.1f} TFLOP/s",
        bytes_per_s=card.bytes_per_s,
        flops=card.flops,
    )


def tell_decode(check: Check, card: Card, shape: Shape, batch: int, seconds: float, note: str = "") -> None:
    share = shape.decode_bytes(batch, shape.context) / seconds / card.bytes_per_s
    check.figure(
        f"decode {batch}{note}",
        f"{seconds * 1e3:.2f} ms per step, {batch / seconds:,.0f} tokens/s, {share:.0%} of the bandwidth",
        seconds=seconds,
        share=share,
    )


def tell_prefill(check: Check, card: Card, shape: Shape, num_tokens: int, seconds: float, context: int = 0) -> None:
    share = shape.prefill_flops(num_tokens, context) / seconds / card.flops
    check.figure(
        f"prefill {num_tokens} after {context}" if context else f"prefill {num_tokens}",
        f"{seconds * 1e3:.1f} ms, {num_tokens / seconds:,.0f} tokens/s, {share:.0%} of the product rate",
        seconds=seconds,
        share=share,
    )


def batches_that_fit(shape: Shape, free_bytes: int, *, tokens_each: int) -> list[int]:
    """Of `shape.batches`, those whose KV fits beside the weights."""
    room = free_bytes - 2 * shape.num_weights - RESERVE_BYTES
    return [batch for batch in shape.batches if shape.kv_bytes(batch * tokens_each) <= room]
