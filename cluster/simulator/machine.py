"""A machine whose workers slow each other down while they compute (see `cluster.contracts.overheads.Contention`)."""

from collections.abc import Callable

from cluster.contracts.overheads import Contention


class Machine:
    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._busy: set[int] = set()  # workers
        self._tell: dict[int, Callable[[], None]] = {}  # by worker

    def join(self, worker: int, tell: Callable[[], None]) -> None:
        """Args:
        tell: Called when another worker begins to compute or has ended: steps that begin from now on take other times.
        """
        self._tell[worker] = tell

    def computes(self, worker: int, is_busy: bool) -> None:
        if is_busy is (worker in self._busy):
            return
        self._busy ^= {worker}
        for other, tell in self._tell.items():
            if other != worker:
                tell()

    def factor(self, worker: int, *, has_prompts: bool) -> float:
        """By which the worker's step that begins now is slower than alone."""
        num_others = len(self._busy) - (worker in self._busy)
        return self._contention.factor(has_prompts=has_prompts, num_others=num_others)


def machines(contention: Contention, num_workers: int) -> list[Machine | None]:
    """Each worker's; None where it has nobody to share with."""
    size = contention.workers_per_machine
    if min(size, num_workers) < 2 or contention == Contention(workers_per_machine=size):
        return [None] * num_workers
    shared = [Machine(contention) for _ in range(-(-num_workers // size))]
    return [shared[number // size] for number in range(num_workers)]
