"""How many CPUs processes here may use at once: those of their affinity, or fewer where a cgroup bounds their time.

A container that is limited to 2 CPUs sees all of its node's, unless its kubelet gives it cores of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """
    Attributes:
        cores: By number; of those that they may run on the first, where the bound is lower.
        is_capped: There are more than the bound lets them use at once: which ones are free, nobody knows.
    """

    cores: Sequence[int]
    is_capped: bool


def usable(root: str = "/") -> Usable:
    """Of this process. `root`: where /proc and /sys are."""
    cores, is_capped = counter()(root)
    return Usable(cores=tuple(cores), is_capped=is_capped)


def counter() -> Callable[[str], tuple[list[int], bool]]:
    """A function that needs nothing but Python where it runs, made here so that Ray sends its code along."""

    def count(root: str = "/") -> tuple[list[int], bool]:
        import os

        def read(path: str) -> str:
            try:
                with open(os.path.join(root, path), encoding="ascii") as file:
                    return file.read()
            except (OSError, ValueError):
                return ""

        def limit(folder: str) -> float:
            """In CPUs, of one cgroup; version 2 has quota and period in one file, version 1 in two."""
            words = read(f"{folder}/cpu.max").split()
            words = words or [read(f"{folder}/cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            try:
                quota, period = (int(word) for word in words)
            except ValueError:  # "max", or no such file
                return float("inf")
            return quota / period if quota > 0 and period > 0 else float("inf")

        least = float("inf")
        for line in read("proc/self/cgroup").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if not controllers:
                tops = ["sys/fs/cgroup"]
            elif "cpu" in controllers.split(","):
                tops = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
            else:
                continue
            # What is mounted may begin at the container's own group, whatever its path says: each one above counts.
            parts = [part for part in path.split("/") if part]
            for top in tops:
                for depth in range(len(parts) + 1) if ".." not in parts else (0,):
                    least = min(least, limit("/".join([top, *parts[:depth]])))
        affinity = getattr(os, "sched_getaffinity", None)
        cores = sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
        num_cores = max(1, int(min(least, len(cores))))
        return cores[:num_cores], num_cores < len(cores)

    return count
