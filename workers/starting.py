"""What every rank's process does before it computes: takes its cores, and loads its runner."""

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers.model import start_report
from workers.spec import WorkerSpec

if TYPE_CHECKING:
    from workers.model.contract import RankRunner
    from workers.model.runner import TorchRunner

logger = logging.getLogger(__name__)
SWITCH_INTERVAL_S = 0.001  # of the interpreter: the loop must not wait 5 ms behind the engine's thread


def take_place(spec: WorkerSpec) -> None:
    """Pins the process to its cores and sets how often its threads take turns."""
    pin(spec)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def pin(spec: WorkerSpec) -> None:
    """Keeps every thread of this process, those yet to come too, on the worker's cores."""
    if not spec.cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), spec.cores)
    except OSError as error:  # none of them is this process's to have
        logger.warning("not pinned cores=%s error=%s", spec.cores, error)


def build_runner(spec: WorkerSpec) -> "RankRunner":
    """The fake runner at once, or torch's, loaded and warmed up: seconds to minutes, by the size of the weights."""
    if spec.fake:
        from workers.model.fake import FakeRunner

        return FakeRunner(spec)
    from workers.model.runner import TorchRunner

    return load(spec, lambda: TorchRunner(spec))


def load(spec: WorkerSpec, make: "Callable[[], TorchRunner]") -> "TorchRunner":
    """Torch's runner, loaded and warmed up, which every rank of a gang does at once.

    Raises: ConfigError: the device cannot keep keys and values as `kv.dtype` says, memory ran out, or what the loader
        raises.
    """
    import torch

    from workers.model.cuda.fp8_support import check_fp8
    from workers.model.memory_error import explained

    check_fp8(spec)
    num_threads = spec.num_threads or len(spec.cores) or None
    if num_threads:
        torch.set_num_threads(num_threads)
    try:
        runner = make()
        runner.warm_up()
    except (RuntimeError, MemoryError) as error:
        ran_out = explained(error, start_report.current(), spec.device)
        if ran_out is None:
            raise
        raise ran_out from error
    return runner
