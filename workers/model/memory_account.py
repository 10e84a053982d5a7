"""What a worker holds on its device, part by part, so that one that runs out of memory at start says what to lower.

Only what this process holds is counted: others on the same device show as what is not free.
"""

import enum
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from baton.errors import ConfigError
from workers.model.device_memory import available_bytes, mib

P = ParamSpec("P")
T = TypeVar("T")


class Part(enum.StrEnum):
    WEIGHTS = "weights"
    KV = "KV and states"
    GRAPHS = "graphs"
    WORKSPACE = "workspace"  # of kernels, and what the largest step computes on the way


class MemoryAccount:
    """What comes to be held is that part's which began last; weights are the first.

    Args:
        held: Bytes that this process holds of the device.
        free: Bytes that nobody holds.
    """

    def __init__(self, held: Callable[[], int], free: Callable[[], int]) -> None:
        self.nbytes = dict.fromkeys(Part, 0)
        self._held = held
        self._free = free
        self._part = Part.WEIGHTS

    def begin(self, part: Part) -> None:
        self.nbytes[self._part] += self._held() - sum(self.nbytes.values())
        self._part = part

    def add(self, nbytes: int) -> None:
        """To the part that began last, of what is free again until the next step."""
        self.nbytes[self._part] += nbytes

    def error(self, cause: torch.OutOfMemoryError) -> ConfigError:
        failed = self._part
        self.begin(failed)
        first_sentences = ". ".join(str(cause).split(". ")[:2])
        return ConfigError(
            f"engine.memory: the device is out of memory for {failed}: {self}, {mib(self._free())} free "
            f"({first_sentences}); lower engine.memory (KV and states), engine.max_batched_tokens or "
            "engine.max_sequences (workspace, graphs), or give a smaller model"
        )

    def __str__(self) -> str:
        return ", ".join(f"{part} {mib(nbytes)}" for part, nbytes in self.nbytes.items())


class Accounted(Protocol):
    memory: MemoryAccount


A = TypeVar("A", bound=Accounted)


def names_parts(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], T]:
    """Of an object with an account: where the method runs out of memory, it raises `MemoryAccount.error`."""

    @functools.wraps(method)
    def named(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise self.memory.error(error) from error

    return named


@dataclass(slots=True)
class Peak:
    nbytes: int = 0


@contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """What is held meanwhile at most, beside what was held before; 0 on a CPU."""
    found = Peak()
    is_cuda = device.type == "cuda"
    before = torch.cuda.memory_reserved(device) if is_cuda else 0
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if is_cuda:
        found.nbytes = torch.cuda.max_memory_reserved(device) - before


def account_of(device: str) -> MemoryAccount:
    """Of a CPU it stays empty: there the loader alone counts."""
    if device != "cuda":
        return MemoryAccount(lambda: 0, lambda: 0)

    def held() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    return MemoryAccount(held, lambda: available_bytes(torch.device("cuda")))
