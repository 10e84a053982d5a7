"""What the card can do: bytes per second of a large copy, operations per second of a large product in bfloat16."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

NUM_RUNS = 10
NUM_WARM_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    name: str
    bytes_per_s: float  # read and written
    flops: float  # per second


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], device: str, runs: int = NUM_RUNS, warm_runs: int = NUM_WARM_RUNS) -> float:
    """Median of `runs`, each with the device idle before and after it."""
    found = []
    for _ in range(warm_runs + runs):
        synchronize(device)
        began_s = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - began_s)
    return statistics.median(found[warm_runs:])


def measure(device: str) -> Card:
    is_gpu = device == "cuda"
    card = Card(
        name=torch.cuda.get_device_name() if is_gpu else "CPU",
        bytes_per_s=_copy_rate(4 << 30 if is_gpu else 8 << 20, device),
        flops=_product_rate(8192 if is_gpu else 256, device),
    )
    if is_gpu:
        torch.cuda.empty_cache()
    return card


def _copy_rate(nbytes: int, device: str) -> float:
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / seconds_of(lambda: target.copy_(source), device)


def _product_rate(size: int, device: str) -> float:
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, device)
