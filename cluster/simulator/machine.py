"""A machine whose workers slow each other down while they compute (see `cluster.planner.overheads.Contention`)."""

from collections.abc import Callable
from enum import IntEnum, auto

from cluster.planner.overheads import Contention


class Doing(IntEnum):
    NOTHING = auto()
    PROMPTS = auto()  # a step with prompts
    DECODES = auto()  # a step of decodes alone


class Machine:
    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._doing: dict[int, Doing] = {}  # by worker
        self._tell: dict[int, Callable[[], None]] = {}

    def join(self, worker: int, tell: Callable[[], None]) -> None:
        """Args:
        tell: Called when another worker begins to do something else: steps that begin from now on take other times.
        """
        self._doing[worker], self._tell[worker] = Doing.NOTHING, tell

    def does(self, worker: int, doing: Doing) -> None:
        if self._doing[worker] is doing:
            return
        self._doing[worker] = doing
        for other, tell in self._tell.items():
            if other != worker:
                tell()

    def factor(self, worker: int, *, has_prompts: bool) -> float:
        """By which the worker's step that begins now is slower than alone."""
        others = [doing for other, doing in self._doing.items() if other != worker]
        return self._contention.factor(
            has_prompts=has_prompts,
            num_prompts=others.count(Doing.PROMPTS),
            num_decodes=others.count(Doing.DECODES),
        )


def machines(contention: Contention, num_workers: int) -> list[Machine | None]:
    """Each worker's; None where it has nobody to share with."""
    size = contention.workers_per_machine
    if min(size, num_workers) < 2 or contention == Contention(workers_per_machine=size):
        return [None] * num_workers
    shared = [Machine(contention) for _ in range(-(-num_workers // size))]
    return [shared[number // size] for number in range(num_workers)]
