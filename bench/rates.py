"""What cores can do at best: bytes read and products computed per second. `python -m bench.rates CORE[,CORE...]`

A process of its own, pinned to the cores: torch's threads stay as it started them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

READ_BYTES = 1 << 30  # more than caches hold
SIZE = 1024  # of square matrices
NUM_RUNS = 10  # the best is taken: a limit is looked for
BUDGET_S = 1.5  # of one figure: emulated products are slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    read: float  # bytes/s
    products: Mapping[str, float]  # dtype -> operations/s

    @property
    def best_product(self) -> float:
        return max(self.products.values())

    def __str__(self) -> str:
        products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in self.products.items())
        return f"reads {self.read / 1e9:.1f} GB/s, multiplies matrices at {products}"


def measured_rates(cores: Sequence[int]) -> Rates:
    """Of these cores together; some seconds."""
    command = [sys.executable, "-m", "bench.rates", ",".join(map(str, cores))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Rates(**json.loads(done.stdout))


def main(cores: list[int]) -> None:
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    import torch

    torch.set_num_threads(len(cores))
    words = torch.ones(READ_BYTES // 4)
    read = READ_BYTES / _best_s(lambda: words.sum())
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(SIZE, SIZE, dtype=dtype) for _ in range(2))
        products[str(dtype).removeprefix("torch.")] = 2 * SIZE**3 / _best_s(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    print(json.dumps({"read": read, "products": products}))


def _best_s(work: Callable[[], object]) -> float:
    times_s: list[float] = []
    while not times_s or (len(times_s) < NUM_RUNS and sum(times_s) < BUDGET_S):
        began_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)


if __name__ == "__main__":
    main([int(core) for core in sys.argv[1].split(",")])
