"""Measures the cluster's processes and folders every few seconds. Sampling is to cost no more than 2 % of a core."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tools.soak.cluster import SoakCluster
from tools.soak.watch import View, workers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """Bytes.

    Attributes:
        anonymous: Memory of its own, without KV that others have mapped too, which is theirs as long as they live.
        pss: All, with its part of what is shared.
    """

    at_s: float
    kind: str
    pid: int
    anonymous: int
    pss: int
    fds: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSample:
    """
    Attributes:
        at_s: Since the load began.
        blocks: Of each worker by state: free (cached ones too), quarantined, and used by what runs.
        num_files: Below the cluster's temporary folder.
        actors: Of Ray, by state; groups: placement groups, by state.
    """

    at_s: float
    blocks: Mapping[str, Mapping[str, int]]
    num_running: int
    num_waiting: int
    num_transfers: int
    num_open: int  # of the clients' requests
    num_files: int
    file_bytes: int
    log_bytes: int
    actors: Mapping[str, int]
    groups: Mapping[str, int]


@dataclass(slots=True)
class Samples:
    """`segments`: shared memory by name that any process of the cluster has mapped."""

    processes: list[ProcessSample] = field(default_factory=list)
    clusters: list[ClusterSample] = field(default_factory=list)
    segments: set[str] = field(default_factory=set)
    took_s: float = 0.0  # all samples together


class Sampler:
    def __init__(self, cluster: SoakCluster, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self.samples = Samples()

    def take(self, view: View, num_open: int) -> None:
        """Blocks for some tens of milliseconds: call it on a thread."""
        begin_s = time.thread_time()
        at_s = self._clock()
        for pid, kind in self._cluster.processes(view).items():
            if (sample := measured(pid, kind, at_s)) is not None:
                self.samples.processes.append(sample)
            self.samples.segments |= segments_of(pid)
        self.samples.clusters.append(self._of_cluster(view, at_s, num_open))
        self.samples.took_s += time.thread_time() - begin_s

    def _of_cluster(self, view: View, at_s: float, num_open: int) -> ClusterSample:
        workers = workers_of(view)
        num_files, num_bytes, log_bytes = weighed(self._cluster.folder)
        return ClusterSample(
            at_s=at_s,
            blocks={worker["worker_id"]: blocks_of(worker) for worker in workers},
            num_running=sum(worker["num_running"] for worker in workers),
            num_waiting=sum(worker["num_waiting"] for worker in workers),
            num_transfers=sum(worker["num_transfers"] for worker in workers),
            num_open=num_open,
            num_files=num_files,
            file_bytes=num_bytes,
            log_bytes=log_bytes,
            actors=view.get("actor_states", {}),
            groups=view.get("group_states", {}),
        )


def measured(pid: int, kind: str, at_s: float) -> ProcessSample | None:
    """None: it is gone."""
    try:
        process = psutil.Process(pid)
        return ProcessSample(
            at_s=at_s,
            kind=kind,
            pid=pid,
            anonymous=_anonymous(pid),
            pss=process.memory_full_info().pss,
            fds=process.num_fds(),
            threads=process.num_threads(),
        )
    except (psutil.Error, OSError, StopIteration):
        return None


def _anonymous(pid: int) -> int:
    """Raises: OSError, StopIteration: it is gone, or about to be."""
    with Path(f"/proc/{pid}/status").open() as lines:
        line = next(line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def blocks_of(worker: Mapping[str, int]) -> dict[str, int]:
    free, quarantined = worker["num_free_blocks"], worker["num_quarantined_blocks"]
    return {"free": free, "quarantined": quarantined, "used": worker["num_blocks"] - free - quarantined}


def segments_of(pid: int) -> set[str]:
    """Paths of shared memory with a name that it has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    paths = {line[line.index("/") :] for line in lines if "/dev/shm/" in line}
    return {path for path in paths if not path.endswith(" (deleted)")}


def weighed(folder: Path) -> tuple[int, int, int]:
    """Files below it, their bytes, and those of logs among them."""
    count = total = logs = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size = os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
            count, total = count + 1, total + size
            logs += size if name.endswith((".log", ".out", ".err")) else 0
    return count, total, logs
