"""What `baton status` and `baton up` make of workers that failed."""

import io

import pytest
from rich.console import Console

from baton.errors import ConfigError, UnavailableError
from cluster.bring_up import MAX_FAILURES, _raise_failure
from cluster.commands.status import worker_table
from cluster.fleet.status import FleetStatus, PoolStatus, WorkerStatus
from cluster.fleet.tick import WorkerPhase
from cluster.state import ClusterState


def status(phase: WorkerPhase, *, num_failures: int, error: str, error_is_final: bool = False) -> FleetStatus:
    worker = WorkerStatus(
        worker_id="decode-0",
        incarnation="a",
        role="decode",
        phase=phase,
        phase_s=1.0,
        address="127.0.0.1:1",
        node_id="n",
        pid=1,
        cores=(0, 1),
        error=error,
        error_is_final=error_is_final,
        num_failures=num_failures,
        num_blocks=8,
        num_free_blocks=5,
    )
    pool = PoolStatus(role="decode", num_desired=1, num_ready=int(phase is WorkerPhase.READY))
    return FleetStatus(ready=False, config="", model_path="", num_ingress_replicas=0, pools=(pool,), workers=(worker,))


def shown(fleet: FleetStatus) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(worker_table(ClusterState(cluster_id="1", http="http://h:1", grpc="h:2"), fleet))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_up_gives_in_on_a_worker_that_keeps_failing() -> None:
    with pytest.raises(UnavailableError, match="decode-0 failed 3 times: killed; run `baton doctor`"):
        _raise_failure(status(WorkerPhase.STARTING, num_failures=MAX_FAILURES, error="killed"))
    with pytest.raises(ConfigError, match="decode-0 cannot start: no weights"):
        _raise_failure(status(WorkerPhase.FAILED, num_failures=1, error="no weights", error_is_final=True))


def test_up_goes_on_with_a_worker_that_failed_and_is_back() -> None:
    _raise_failure(status(WorkerPhase.READY, num_failures=MAX_FAILURES, error="killed"))
    _raise_failure(status(WorkerPhase.STARTING, num_failures=MAX_FAILURES - 1, error="killed"))


def test_status_tells_a_worker_that_is_back_from_one_that_is_not() -> None:
    lines = shown(status(WorkerPhase.READY, num_failures=1, error="killed"))
    assert lines[0] == "http://h:1  gRPC h:2  decode 1/1"
    assert lines[2].split()[:5] == ["decode-0", "decode", "ready", "0,1", "3/8"]
    assert lines[3] == "decode-0 is back after it failed once: killed"
    assert shown(status(WorkerPhase.FAILED, num_failures=2, error="killed"))[3] == (
        "decode-0 failed 2 times in a row: killed"
    )
