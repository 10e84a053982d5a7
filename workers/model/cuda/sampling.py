"""Tokens drawn from logits on the device by a Triton kernel of our own: nothing is sorted, nothing waits."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.model.cuda.launching import has_triton, passes, power_of_2, to_device

BLOCK, NARROW = 2048, 512


@functools.cache
def works(device: torch.device, vocab_size: int) -> bool:
    """Whether the kernel can be used there; compiles it on the first call, for some seconds: before anybody waits."""

    def trial() -> str:
        logits = torch.zeros(2, vocab_size, device=device)
        logits[:, vocab_size // 2] = 50.0
        found = choose(logits, [(0.0, 1.0, 0.0, 0), (1.0, 0.5, 0.0, 20)], [(0, 0), (1, 2)]).tolist()
        return "" if found == [vocab_size // 2] * 2 else str(found)

    return device.type == "cuda" and has_triton() and passes(trial, "tokens are drawn by torch")


def numbers_of(sampling: Sequence[tuple[float, float, float, int]], keys: Sequence[tuple[int, int]]) -> Tensor:
    """[2 x rows, 3] float32: what `kernels.sampling.choose` reads of each row; the second half are bits of int32."""
    numbers = [(heat, top_p, math.log(min_p) if min_p > 0 else -math.inf) for heat, top_p, min_p, _ in sampling]
    ints = [(top_k, *key) for (_, _, _, top_k), key in zip(sampling, keys, strict=True)]
    return torch.cat([torch.tensor(numbers), torch.tensor(ints, dtype=torch.int32).view(torch.float32)])


def choose(
    logits: Tensor, sampling: Sequence[tuple[float, float, float, int]], keys: Sequence[tuple[int, int]]
) -> Tensor:
    """[rows] int64, on the device: the likeliest token at temperature 0 (the first of equals), a draw above.

    Args:
        logits: [rows, vocab_size] float32; a row is contiguous.
        sampling: Of each row temperature, top_p, min_p and top_k (0: all).
        keys: Of each row's noise: low and high 32 bits, as signed numbers.
    """
    from workers.model.cuda.kernels import sampling as kernels

    rows, vocab_size = logits.shape
    device = logits.device
    there = to_device(numbers_of(sampling, keys), device)
    is_cut = any(heat > 0 and (top_k or top_p < 1 or min_p > 0) for heat, top_p, min_p, top_k in sampling)
    scratch = rows * vocab_size if is_cut else 1
    token_ids = torch.empty(rows, dtype=torch.int64, device=device)
    kernels.choose[(rows,)](
        logits,
        there[:rows],
        there[rows:].view(torch.int32),
        token_ids,
        torch.empty(scratch, dtype=torch.float32, device=device),
        torch.empty(scratch, dtype=torch.int32, device=device),
        logits.stride(0),
        vocab_size,
        BLOCK=min(BLOCK, max(16, power_of_2(vocab_size))),
        NARROW=min(NARROW, max(16, power_of_2(vocab_size))),
        num_warps=8,
    )
    return token_ids
