"""Shares a node's cores among its workers. Pure.

Prefill and decode never share a core while there are enough: a new worker takes the cores that fewest others hold.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

SPIN_COUNT = "1000000"  # about 20 ms on an EPYC; without it libgomp spins on while the worker is idle


def share(available: Sequence[int], taken: Iterable[Sequence[int]], num_ranks: int, size: int = 1) -> tuple[int, ...]:
    """Cores for one more worker.

    Args:
        available: The node's cores, at least one.
        taken: The cores of each worker that runs there already.
        num_ranks: Of all workers that the node is to hold, this one included, >= 1.
        size: This worker's ranks.
    Returns:
        len(available) // num_ranks cores for each rank, at least one for all, in ascending order.
    """
    use = Counter(core for cores in taken for core in cores)
    size = min(len(available), size * max(1, len(available) // max(1, num_ranks)))
    least = sorted(available, key=lambda core: (use[core], core))
    return tuple(sorted(least[:size]))


def split(cores: Sequence[int], num_ranks: int) -> list[tuple[int, ...]]:
    """A worker's cores among its ranks: as many each, and none twice where there are enough."""
    size = len(cores) // num_ranks
    if not size:
        return [(cores[rank % len(cores)],) for rank in range(num_ranks)]
    return [tuple(cores[rank * size : (rank + 1) * size]) for rank in range(num_ranks)]


def thread_env(num_threads: int, *, exclusive: bool) -> dict[str, str]:
    """Environment of a worker's process; set before any library starts its threads.

    Threads that wait spin only where no other worker wants their core, and from one step to the next, not for good.
    """
    count = str(num_threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "ACTIVE" if exclusive and num_threads > 1 else "PASSIVE",
        **({"GOMP_SPINCOUNT": SPIN_COUNT} if exclusive else {}),
        "TOKENIZERS_PARALLELISM": "false",
    }
